# SPDX-License-Identifier: Apache-2.0
"""Makes what vLLM's runner returns under asynchronous scheduling, from our copy instead of the runner's own."""

from __future__ import annotations

from typing import Any

from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput
from vllm.v1.worker.gpu_model_runner import AsyncGPUModelRunnerOutput

from vllm_ascend_ext.integration.mtp_output.runner_outputs import RunnerHooks, engine_logprobs, marked
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import mtp_output as seams
from vllm_ascend_ext.mtp_output.step.pipeline import StepResult

_UPSTREAM = AsyncGPUModelRunnerOutput  # kept here, as runners will find our function by that name


def make_async_output(
    model_runner_output: ModelRunnerOutput, sampled_token_ids: Any, *args: Any, **kwargs: Any
) -> AsyncModelRunnerOutput:
    """Takes the place of `AsyncGPUModelRunnerOutput`, which it still makes for runners that are not ours."""
    mark = marked(sampled_token_ids)
    if mark is None:
        return _UPSTREAM(model_runner_output, sampled_token_ids, *args, **kwargs)
    return PackedAsyncOutput(model_runner_output, *mark)


class PackedAsyncOutput(AsyncModelRunnerOutput):
    """Holds a step's output, and waits for its copy to the host when the engine asks for it.

    Args:
        output: vLLM's output of the step, into which the tokens are put later.
        outputs: hooks of the runner that made it.
        step: what was sampled; None on a rank whose output nobody reads.
    """

    def __init__(self, output: ModelRunnerOutput, outputs: RunnerHooks, step: StepResult | None) -> None:
        self._output, self._outputs, self._step = output, outputs, step
        # For penalties and the like in the next step, vLLM waits for the event, then reads the tokens as a list.
        self.async_copy_ready_event = self.sampled_token_ids_cpu = _HostTokens(outputs, step)

    def get_output(self) -> ModelRunnerOutput:
        """Blocks until the step is on the host and its frame is sent, and returns the step's output.

        vLLM's worker process calls this on a thread. An exception would end that thread and leave the engine
        waiting for ever, so it is returned there: the worker process takes a returned exception for a failed step.
        """
        if self._step is None:
            return self._output
        try:
            self._outputs.outputs.resolve(self._step)
        except Exception as error:
            if self._outputs.returns_errors:
                return error  # type: ignore[return-value]
            raise
        change.replace(seams.TOKEN_IDS, self._step.token_ids, self._output)
        change.replace(seams.LOGPROBS, engine_logprobs(self._step), self._output)
        return self._output


class _HostTokens:
    """Takes the place of a tensor of tokens on the host, and of the event that tells when its copy is done."""

    def __init__(self, outputs: RunnerHooks, step: StepResult | None) -> None:
        self._outputs, self._step = outputs, step
        self._rows: list[list[int]] = []

    def synchronize(self) -> None:
        """Blocks until the tokens are on the host."""
        assert self._step is not None, "sampled without `needs_history`"
        self._rows = self._outputs.outputs.history(self._step).tolist()

    def tolist(self) -> list[list[int]]:
        """Returns the tokens, ``[B, S]``, -1 where a draft was rejected."""
        return self._rows
