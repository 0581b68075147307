# SPDX-License-Identifier: Apache-2.0
"""What vLLM's runner returns under asynchronous scheduling, made of our copy instead of its own."""

from __future__ import annotations

from typing import Any

from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput
from vllm.v1.worker.gpu_model_runner import AsyncGPUModelRunnerOutput

from vllm_ascend_ext.integration.mtp_output.runner_outputs import RunnerHooks, engine_logprobs, marked
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import mtp_output as seams
from vllm_ascend_ext.mtp_output.step.pipeline import StepResult

_UPSTREAM = AsyncGPUModelRunnerOutput  # the name that is looked up will be ours


def make_async_output(
    model_runner_output: ModelRunnerOutput, sampled_token_ids: Any, *args: Any, **kwargs: Any
) -> AsyncModelRunnerOutput:
    """Takes the place of `AsyncGPUModelRunnerOutput`: of runners that are not ours, it makes theirs."""
    mark = marked(sampled_token_ids)
    if mark is None:
        return _UPSTREAM(model_runner_output, sampled_token_ids, *args, **kwargs)
    return PackedAsyncOutput(model_runner_output, *mark)


class PackedAsyncOutput(AsyncModelRunnerOutput):
    """A step's output, on the host when the engine asks for it.

    step: None on a rank whose output nobody reads.
    """

    def __init__(self, output: ModelRunnerOutput, outputs: RunnerHooks, step: StepResult | None) -> None:
        self._output, self._outputs, self._step = output, outputs, step
        # for penalties and the like in the next step: vLLM waits for the one, then asks for the list of the other
        self.async_copy_ready_event = self.sampled_token_ids_cpu = _HostTokens(outputs, step)

    def get_output(self) -> ModelRunnerOutput:
        """Blocks until the step is on the host and its frame is sent.

        vLLM's worker process calls it on a thread that an exception would end, leaving the engine to wait for
        ever; it takes an exception that is returned for a failed step.
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
    """Stands for a tensor of tokens on the host and for the event behind its copy."""

    def __init__(self, outputs: RunnerHooks, step: StepResult | None) -> None:
        self._outputs, self._step = outputs, step
        self._rows: list[list[int]] = []

    def synchronize(self) -> None:
        """Blocks until the tokens are there."""
        assert self._step is not None, "sampled without `needs_history`"
        self._rows = self._outputs.outputs.history(self._step).tolist()

    def tolist(self) -> list[list[int]]:
        """``[B, S]``, -1 where a draft was rejected."""
        return self._rows
