# SPDX-License-Identifier: Apache-2.0
"""The ring in shared memory between a sender and its readers."""
