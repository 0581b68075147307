# SPDX-License-Identifier: Apache-2.0
"""Mends vLLM's model runner (V1) where what any client may send stops an engine or gives wrong tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import runner as seams

_UNKNOWN = 0  # any id of the vocabulary


class MendedRunner:
    """Stands in front of vLLM's GPU or CPU runner, as a mixin; each method says what it mends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.enable_prompt_embeds:
            _give_embedded_prompts_ids()

    def _input_fits_in_drafter(self, common_attn_metadata: Any) -> bool:
        """Returns whether this step drafts, and keeps step with the other replicas where it does not.

        vLLM does not draft in a step in which a request comes near the drafter's longest sequence. The drafts of
        the other replicas, real or dummy, exchange rows with this one all the same. Left alone they wait for ever,
        or meet this replica in another collective.
        """
        fits: bool = super()._input_fits_in_drafter(common_attn_metadata)  # type: ignore[misc]
        if not fits and self.parallel_config.data_parallel_size > 1 and self._has_draft_model():
            # a row a request: in no pass more than this replica committed to (`dp_gather.counts_ahead`)
            self.drafter.dummy_run(self.input_batch.num_reqs)
        return fits

    def _has_draft_model(self) -> bool:
        """Returns whether an idle replica's dummy step runs the drafter, by vLLM's own condition."""
        config = self.speculative_config
        return bool(config.use_eagle() or config.uses_draft_model() or config.uses_extract_hidden_states())

    def _prepare_input_ids(
        self, scheduler_output: Any, num_reqs: int, total_num_scheduled_tokens: int, cu_num_tokens: Any
    ) -> None:
        """Marks rows as tokens by their place behind the prompt, where prompts may be embeddings.

        vLLM marks positions as tokens are noted, one a step. With asynchronous drafts positions run ahead of the
        notes, and rows there took embeddings that an earlier step had left: wrong tokens. Rows of embeddings get
        an id as well, for the drafter, which reads nothing else: what is left over may be no token.
        """
        if self.enable_prompt_embeds and self.speculative_config is not None:
            rows = slice(total_num_scheduled_tokens)
            batch, is_token = self.input_batch, self.is_token_ids.np[rows]
            lengths = np.diff(cu_num_tokens[:num_reqs], prepend=0)
            begins = np.repeat(cu_num_tokens[:num_reqs] - lengths, lengths)
            computed = np.repeat(batch.num_computed_tokens_cpu[:num_reqs], lengths)
            positions = computed + np.arange(total_num_scheduled_tokens) - begins
            is_token |= positions >= np.repeat(batch.num_prompt_tokens[:num_reqs], lengths)
            self.input_ids.np[rows][~is_token] = _UNKNOWN
        super()._prepare_input_ids(  # type: ignore[misc]
            scheduler_output, num_reqs, total_num_scheduled_tokens, cu_num_tokens
        )

    # attributes of vLLM's runner that the mixin reads
    enable_prompt_embeds: bool
    is_token_ids: Any
    input_ids: Any
    parallel_config: Any
    speculative_config: Any
    drafter: Any
    input_batch: Any


@functools.cache  # once a process
def _give_embedded_prompts_ids() -> None:
    """Gives the drafter an id where it asks for the last one of an embedded prompt, and vLLM raises.

    It asks for every request, and uses the id only of one whose prompt goes on in the next step.
    """
    change.wrap(seams.TOKEN_ID, None, _with_ids)


def _with_ids(token_id: Callable[[Any, int], int]) -> Callable[[Any, int], int]:
    def with_ids(state: Any, idx: int) -> int:
        is_embedded = state.prompt_token_ids is None and idx < state.num_prompt_tokens
        return _UNKNOWN if is_embedded else token_id(state, idx)

    return with_ids
