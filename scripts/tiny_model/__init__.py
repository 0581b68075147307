# SPDX-License-Identifier: Apache-2.0
"""Recipe of the tiny DeepSeek-V3 model under ``tests/assets/tiny-deepseek``: corpus, training, report."""
