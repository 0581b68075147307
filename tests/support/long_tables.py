# SPDX-License-Identifier: Apache-2.0
"""Marks the rows of tables that are too long for .ci/run; the nightly command in docs/ci.md runs them."""

from __future__ import annotations

import os

import pytest

LONG_TESTS = "VLLM_ASCEND_EXT_LONG_TESTS"
LONG = os.environ.get(LONG_TESTS) == "1"  # whole products of cases, and a compiler run a mutant
long_table = pytest.mark.skipif(not LONG, reason=LONG_TESTS + "=1")
