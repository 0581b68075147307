# SPDX-License-Identifier: Apache-2.0
"""Output of multi-token prediction: frames, the channel that carries them, and what bounds a launch."""
