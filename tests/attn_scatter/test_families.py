# SPDX-License-Identifier: Apache-2.0
"""Families of models on the CPU: tokens of scattered steps are those of vLLM's own layers and of transformers."""

from __future__ import annotations

import pytest

from tests.attn_scatter.families import FAMILIES
from tests.attn_scatter.test_engine import ENGINE_ARGS, NEVER, _check_phase, _phases
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, transformers_tokens, write_model
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded"), long_table]

NUM_TOKENS = 8


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_family(family: str, tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With and without `full`, in steps of odd rows, whose shards are padded once and uneven once."""
    config_name, settings = FAMILIES[family]
    model = write_model(tmp_path_factory.mktemp("family"), tiny_model, config_name, **settings)
    prompts = make_prompts(tiny_model)[:8]
    expected = transformers_tokens(model, prompts, NUM_TOKENS)
    assert len(set(expected)) > 4  # not degenerate
    for full in (False, True):
        scatter = {"enabled": True, "full": full, "min_tokens": 1}
        case = EngineCase(model, Layout(tp=2), ascend_ext={"attn_scatter": scatter}, engine_args=ENGINE_ARGS)
        for plain, always in _phases(case, prompts, [(NEVER, False), (1, full)]):
            assert plain["tokens"] == expected
            _check_phase(always, expected)
