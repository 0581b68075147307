# SPDX-License-Identifier: Apache-2.0
"""Runs `vllm-ascend-ext demo`: an engine with expert parallelism, MTP and load collection, checked against a plain
one.

It completes a few Python prompts on TP x DP forked ranks, streams the text, reports speed, draft acceptance,
expert load and traffic, draws the load, and compares every token with a second run on one rank with everything
off. `demo.report` documents the JSON.
"""

from __future__ import annotations

import importlib.util
import time
from typing import Any

from vllm_ascend_ext import envs
from vllm_ascend_ext.integration.errors import StartupError
from vllm_ascend_ext.integration.upstream import versions
from vllm_ascend_ext.tools import forked_ranks
from vllm_ascend_ext.tools.demo.input import DemoOptions, check_options, model_len, read_model_config
from vllm_ascend_ext.tools.demo.view import DemoView
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.preload import preload

_DEADLINE_S = 600.0
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # ranks are forks, which would inherit OpenMP pools without their threads
    "TOKENIZERS_PARALLELISM": "false",  # likewise
    "TORCHDYNAMO_DISABLE": "1",  # compiling the small graphs around sampling costs more than it saves
    "HF_HUB_OFFLINE": "1",  # the model is a local folder
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for the report
}


def prepare_process(*, debug: bool) -> None:
    """Sets this process's environment for the ranks; call it before torch is imported.

    debug: keep vLLM's log, which is otherwise reduced to errors.
    """
    envs.export(_ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "INFO" if debug else "ERROR"})


def run_demo(options: DemoOptions, view: DemoView) -> dict[str, Any]:
    """Runs the demo and returns its document (`demo.report`); the heat map is written.

    Raises InputError (nothing was started), StartupError, or RankError when a rank fails.
    """
    check_options(options)
    version = versions.check_vllm_version()
    if importlib.util.find_spec("matplotlib") is None:
        raise StartupError("the demo draws a heat map and needs matplotlib; `pip install matplotlib`")
    started = time.perf_counter()
    with view.phase(f"loading vLLM {version}"):
        _preload()
    load_seconds = time.perf_counter() - started

    case, prompts = _case(options), options.prompts
    with view.engine(_describe(options), prompts, options.max_tokens, texts=True) as on_delta:
        result = run_engine(
            case, prompts, max_tokens=options.max_tokens, deadline_s=_DEADLINE_S, on_delta=on_delta
        )
    from vllm_ascend_ext.tools.demo import report
    from vllm_ascend_ext.tools.demo.drawing import drawn_meanwhile

    document = report.build_document(options, result, None, load_seconds)
    with drawn_meanwhile(report.heatmap_of_document(document), options.heatmap):
        if not options.compare:
            return document
        what = "the same prompts on 1 rank, everything off"
        with view.engine(what, prompts, options.max_tokens, texts=False) as on_delta:
            reference = run_engine(
                _plain_case(case),
                prompts,
                max_tokens=options.max_tokens,
                deadline_s=_DEADLINE_S,
                on_delta=on_delta,
            )
    return report.build_document(options, result, reference, load_seconds)


def exit_status(document: dict[str, Any]) -> int:
    """Returns 1 when tokens differ in float32, else 0.

    In bfloat16 a difference is no failure: ranks add partial sums in another order than one rank does, and with
    8 bits of mantissa two candidates are often so close that the rounding decides between them.
    """
    comparison = document["comparison"]
    differs = comparison is not None and not comparison["same_tokens"]
    return int(differs and document["layout"]["dtype"] == "float32")


def _preload() -> None:
    try:
        preload()
    except StartupError:
        raise
    except Exception as error:
        text = str(error).splitlines()
        raise StartupError(
            f"vLLM cannot be imported ({type(error).__name__}: {text[0] if text else ''}); "
            "`vllm-ascend-ext doctor` looks for the cause"
        ) from error


def _case(options: DemoOptions) -> EngineCase:
    return EngineCase(
        model=str(options.model),
        layout=forked_ranks.Layout(options.tp, options.dp),
        expert_parallel=options.expert_parallel,
        num_speculative_tokens=options.num_speculative_tokens,
        ascend_ext={"eplb_load": {"enabled": True}},
        dtype=options.dtype,
        engine_args={"max_model_len": model_len(read_model_config(options.model), options)},
    )


def _plain_case(case: EngineCase) -> EngineCase:
    """Returns the case of the same model, type and lengths on one rank, with every feature off."""
    return EngineCase(model=case.model, dtype=case.dtype, engine_args=case.engine_args)


def _describe(options: DemoOptions) -> str:
    parts = [f"{options.num_ranks} rank" + "s" * (options.num_ranks > 1)]
    parts += [f"TP {options.tp}, DP {options.dp}"]
    parts += ["expert parallel"] if options.expert_parallel else []
    parts += [f"MTP k={options.num_speculative_tokens}"] if options.num_speculative_tokens else []
    return f"{options.model.name} on {', '.join(parts)}, {options.dtype}"
