# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny DeepSeek-V3 model under ``tests/assets/tiny-deepseek``: corpus, training, report."""
