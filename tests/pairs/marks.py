# SPDX-License-Identifier: Apache-2.0
"""Marks what is about one pair of vLLM and vllm-ascend; the second has an environment of its own (docs/ci.md)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from vllm_ascend_ext.integration.upstream.versions import PAIRS, installed_pair

FIRST, SECOND = PAIRS
on_first_pair = pytest.mark.skipif(installed_pair() != FIRST, reason=f"about {FIRST}")
on_second_pair = pytest.mark.skipif(installed_pair() != SECOND, reason=f"about {SECOND}")


def on_pairs(names: Iterable[str], later: Collection[str]) -> list[Any]:
    """Returns the parameters of a table of which `later` are run with the second pair, too."""
    return [pytest.param(name, marks=[on_first_pair] * (name not in later)) for name in names]
