# SPDX-License-Identifier: Apache-2.0
"""Adds observers of steps and a replaceable way for outputs to the model runner of each device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vllm_ascend_ext.runner.observers import RunnerOutputs, StepObserver
from vllm_ascend_ext.runner.step import StepFacts
from vllm_ascend_ext.runner.step_cost import Method, Place, StepCost


class ExtModelRunner:
    """Calls observers and outputs around the steps of a device's model runner, which is the next base class.

    Order of a step: read step facts → forward → sample → output on its way to the host → snapshot → poll. Each
    overridden method of vLLM's V1 runner calls the device's own. With no observer and no outputs attached every
    override is one attribute test.
    """

    step_observers: tuple[StepObserver, ...] = ()
    step_outputs: RunnerOutputs | None = None
    step_cost: StepCost | None = None
    _step = 0
    _num_scheduled_tokens = 0
    _num_requests = 0
    _in_step = False

    def add_observer(self, observer: StepObserver) -> None:
        """Has `observer` follow all steps from now on; features call it once the models are loaded."""
        self.step_observers = (*self.step_observers, observer)

    def attach_outputs(self, outputs: RunnerOutputs) -> None:
        """Has `outputs` take what this runner samples to the host; called once the models are loaded."""
        self.step_outputs = outputs

    def measure_cost(self, places: Mapping[str, Iterable[Place]]) -> StepCost:
        """Begins to measure the thread time that features take of a step; call `stop` of the result at the end.

        Args:
            places: places of each feature, to which those of this mixin are added.
        """
        if self.step_cost is not None:
            self.step_cost.stop()
        own = [Method("begin step", self, "_begin_step")]
        self.step_cost = StepCost({"runner": own, **places}, Method("end step", self, "_end_step"))
        return self.step_cost

    def wait_for_row_counts(self) -> None:
        """Waits until the replicas' row counts of the present pass are known. vLLM knows them before the pass."""

    def put_wait_for_row_counts(self, wait: Callable[[], None]) -> None:
        """Replaces `wait_for_row_counts` by the wait of a feature that exchanges the counts beside the pass."""
        self.wait_for_row_counts = wait  # type: ignore[method-assign]

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the model and remembers how many tokens are real: vLLM tells the forward only the padded number."""
        self._num_scheduled_tokens = scheduler_output.total_num_scheduled_tokens
        self._num_requests = len(scheduler_output.num_scheduled_tokens)
        self._in_step = False
        if self.step_outputs is not None:
            self.step_outputs.begin_step(scheduler_output)
        output = super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        if output is not None:  # this rank does not sample: the step ends here
            self._end_step()
            if self.step_outputs is not None:
                self.step_outputs.nothing_sampled()
        return output

    def _sample(self, logits: Any, spec_decode_metadata: Any) -> Any:
        output = super()._sample(logits, spec_decode_metadata)  # type: ignore[misc]
        if self.step_outputs is not None:
            self.step_outputs.sampled(output, spec_decode_metadata)
        return output

    def _bookkeeping_sync(self, scheduler_output: Any, sampler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Gives vLLM's bookkeeping the sampled tokens that `step_outputs` has copied to the host already."""
        if self.step_outputs is not None:
            sampler_output = self.step_outputs.on_host(sampler_output)
        return super()._bookkeeping_sync(scheduler_output, sampler_output, *args, **kwargs)  # type: ignore[misc]

    def _to_list(self, sampled_token_ids: Any) -> Any:
        if self.step_outputs is not None:  # on the host already: no stream to wait for
            return sampled_token_ids.tolist()
        return super()._to_list(sampled_token_ids)  # type: ignore[misc]

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Samples, drafts, and ends the step."""
        output = super().sample_tokens(*args, **kwargs)  # type: ignore[misc]
        self._end_step()
        return output

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.step_observers:
            num_tokens = self._num_scheduled_tokens
            self._begin_step(num_tokens, max(num_tokens, _num_rows(args, kwargs)))
        return super()._model_forward(*args, **kwargs)  # type: ignore[misc]

    def _dummy_run(self, num_tokens: int, *args: Any, **kwargs: Any) -> Any:
        """Runs a pass without a real row, for warm-up, graph capture or an idle rank.

        vLLM's GPU runner then calls the model directly, vllm-ascend's goes through `_model_forward`. Only the pass
        of an idle rank is a step: vLLM steps its EPLB there too, so that all ranks count the same steps.
        """
        if self.step_observers:
            self._num_scheduled_tokens = self._num_requests = 0
            self._begin_step(0, num_tokens)
        output = super()._dummy_run(num_tokens, *args, **kwargs)  # type: ignore[misc]
        if not (kwargs.get("skip_eplb") or kwargs.get("is_profile")):
            self._end_step()
        return output

    def begin_draft_pass(self, num_tokens: int, num_tokens_padded: int, *, is_first: bool = True) -> None:
        """Tells the observers that a pass of the draft model is about to run.

        The step bounds its real rows: vllm-ascend takes the padding of some steps for rows of one more request.

        Args:
            num_tokens: rows of the pass that belong to requests, and perhaps padding.
            num_tokens_padded: rows of the pass, padding included.
            is_first: whether the pass has the target's rows; a later one has one row a request.
        """
        num_tokens = min(num_tokens, self._num_scheduled_tokens if is_first else self._num_requests)
        for observer in self.step_observers:
            observer.begin_draft(StepFacts(self._step, num_tokens, num_tokens_padded))

    def begin_draft_passes(self, num_passes: int, num_tokens: int, num_requests: int, num_rows: int) -> None:
        """Tells the observers that all passes of the draft model are about to run, perhaps from one graph.

        Args:
            num_passes: number of passes, at least 1.
            num_tokens: rows of the first pass that belong to requests, and perhaps padding; the step bounds them.
            num_requests: the same of each later pass.
            num_rows: rows of each pass, padding included.
        """
        later = min(num_requests, self._num_requests)
        real = [min(num_tokens, self._num_scheduled_tokens), *[later] * (num_passes - 1)]
        passes = [StepFacts(self._step, number, max(number, num_rows)) for number in real]
        for observer in self.step_observers:
            observer.begin_drafts(passes)

    def _begin_step(self, num_tokens: int, num_tokens_padded: int) -> None:
        self._step += 1
        self._in_step = True
        facts = StepFacts(self._step, num_tokens, num_tokens_padded)
        for observer in self.step_observers:
            observer.begin_forward(facts)

    def _end_step(self) -> None:
        if self._in_step:
            self._in_step = False
            for observer in self.step_observers:
                observer.end_step()


def _num_rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Returns how many rows the model is called with: the first argument on vllm-ascend, else the length of the
    input ids or embeddings."""
    if args and isinstance(args[0], int):
        return args[0]
    for value in (kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args):
        if hasattr(value, "shape") and len(value.shape) > 0:
            return int(value.shape[0])
    return 0
