# SPDX-License-Identifier: Apache-2.0
"""What `check` concludes from a command is what start-up concludes from the configuration that vllm-ascend makes
of it: the same dispatches and settings, word for word the same refusals. On the emulator, where both can be asked.
"""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace
from typing import Any

import pytest

from tests.pairs.marks import FIRST
from vllm_ascend_ext.integration.upstream.devices import DEVICES
from vllm_ascend_ext.integration.upstream.versions import installed_pair
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.emulator, pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

ALL = ["eplb_load", "dp_gather", "attn_scatter", "mtp_output"]
EP = ["--tensor-parallel-size", "2", "--enable-expert-parallel"]
# options of a command -> its environment; each is built anew by vllm-ascend's platform
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "eager": (["--enforce-eager"], {}),
    "default graphs": ([], {}),
    "FULL_DECODE_ONLY": (["-cc.cudagraph_mode=FULL_DECODE_ONLY", *EP], {}),
    "no graphs": (["-cc.cudagraph_mode=NONE", *EP], {}),
    "DP": (["--enforce-eager", "--data-parallel-size", "2", "--enable-expert-parallel"], {}),
    "16 ranks": (["--enforce-eager", "--data-parallel-size", "8", *EP], {}),
    "stages": (["--enforce-eager", "--pipeline-parallel-size", "2"], {}),
    "FlashComm v1 by key": (["--enforce-eager", *EP, "--additional-config.enable_flashcomm1=true"], {}),
    "FlashComm v1 off by key": (
        ["--enforce-eager", *EP, "--additional-config.enable_flashcomm1=false"],
        {"VLLM_ASCEND_ENABLE_FLASHCOMM1": "1"},
    ),
    "FlashComm v1 by variable": (["--enforce-eager", *EP], {"VLLM_ASCEND_ENABLE_FLASHCOMM1": "1"}),
    "shared-expert DP": (["--enforce-eager", *EP, "--additional-config.enable_shared_expert_dp=true"], {}),
    "shared-expert DP without EP": (["--enforce-eager", "--additional-config.enable_shared_expert_dp=true"], {}),
    "gate": (["--enforce-eager", "--additional-config.multistream_overlap_gate=true"], {}),
    "summing matmul by variable": (["--enforce-eager", *EP], {"VLLM_ASCEND_ENABLE_MATMUL_ALLREDUCE": "1"}),
    "EPLB": (
        ["--enforce-eager", *EP, "--additional-config.eplb_config.dynamic_eplb=true"],
        {"DYNAMIC_EPLB": "true"},
    ),
    "MTP": (
        ["--enforce-eager", "--speculative-config", '{"method": "deepseek_mtp", "num_speculative_tokens": 2}'],
        {},
    ),
    "half": (["--enforce-eager", "--dtype", "float16"], {}),
    "log-probabilities": (["--enforce-eager", "--max-logprobs", "-1"], {}),
}

# ranks of all replicas and stages, stages, expert parallelism
LAYOUTS = ((1, 1, True), (8, 1, True), (16, 1, True), (32, 2, True), (64, 1, False))


def facts(deployment: Any) -> dict[str, Any]:
    """What rules and classes look at, as plain values."""
    config = deployment.vllm_config
    own = deployment.stack.own_config(config)
    names = ("mix_placement", "multistream_overlap_gate", "enable_shared_expert_dp", "enable_sp_by_pass")
    names += ("enable_matmul_allreduce", "enable_flashcomm2_parallel_size")
    eplb = ("dynamic_eplb", "num_redundant_experts", "eplb_policy_type", "expert_heat_collection_interval")
    return {
        "dispatches": deployment.stack.dispatches(config),
        "splits_rows": deployment.stack.splits_rows(config),
        "in_graphs": deployment.in_graphs,
        "mode": config.compilation_config.cudagraph_mode.name,
        "drafts": deployment.speculative_method,
        "experts": (config.model_config.is_moe, config.model_config.get_num_experts()),
        "ranks": (config.parallel_config.world_size, config.parallel_config.world_size_across_dp),
        "all2all": config.parallel_config.all2all_backend,
        "dtype": str(config.model_config.dtype),
        "architectures": list(config.model_config.architectures),
        **{name: bool(getattr(own, name)) for name in names},
        **{name: getattr(own.eplb_config, name) for name in eplb},
    }


def both(model: str, options: list[str], environment: dict[str, str]) -> tuple[Any, Any]:
    """Returns (facts, refusals) of start-up, and of `check`."""
    import vllm_ascend.utils as ascend
    from vllm.engine.arg_utils import EngineArgs
    from vllm_ascend.ascend_config import get_ascend_config

    from vllm_ascend_ext.config import ExtConfig
    from vllm_ascend_ext.integration.deployment import Deployment
    from vllm_ascend_ext.integration.startup.checks import refusals_in
    from vllm_ascend_ext.tools.check.model_facts import read_model
    from vllm_ascend_ext.tools.check.parsed_config import build
    from vllm_ascend_ext.tools.check.serve_options import read_options
    from vllm_ascend_ext.tools.check.verdicts import STACKS

    config = ExtConfig.model_validate({name: {"enabled": True} for name in ALL})
    # "refresh" has vllm-ascend forget the case before
    words = [model, *options, "--max-model-len", "512", "--distributed-executor-backend", "mp"]
    words += ["--additional-config.refresh=true"]
    parsed = read_options(words)
    stack = STACKS[installed_pair().vllm]("A2", environment)
    ours = Deployment(build(parsed, read_model(model, None, {}), stack), config, DEVICES["npu"], stack)
    os.environ.update(environment)
    try:
        live = read_options(words)
        live.model = live.model_tag  # as `vllm serve` does
        vllm_config = EngineArgs.from_cli_args(live).create_engine_config()
    finally:
        for name in environment:
            del os.environ[name]
    del vllm_config.additional_config["refresh"]
    if installed_pair() == FIRST:  # in a server vllm-ascend's configuration asks first, and what it hears stands
        ascend._ENABLE_SP = None
        ascend.enable_sp(vllm_config, get_ascend_config().enable_shared_expert_dp)
    theirs = Deployment(vllm_config, config, DEVICES["npu"], DEVICES["npu"].load_stack())
    return tuple((facts(deployment), [*map(str, refusals_in(deployment))]) for deployment in (theirs, ours))


def test_a_command_is_judged_as_start_up_judges_it(tiny_model: str) -> None:
    cases = {name: case for name, case in CASES.items() if installed_pair() == FIRST or name != "gate"}

    def job(rank: Rank) -> dict[str, tuple[Any, Any]]:
        return {name: both(tiny_model, *case) for name, case in cases.items()}

    [found] = run_ranks(job, Layout(), deadline_s=300)
    for name, ((their_facts, their_refusals), (our_facts, our_refusals)) in found.items():
        assert our_facts == their_facts, name
        assert our_refusals == their_refusals, name
    assert len({str(pair) for pair in found.values()}) > len(cases) // 2  # the cases are not all alike


def take_for(soc: str) -> None:
    """Has vllm-ascend take this machine for one with an SoC."""
    if installed_pair() == FIRST:
        import vllm_ascend.utils as ascend

        ascend.get_ascend_device_type = lambda: ascend.AscendDeviceType[soc]
        return
    import vllm_ascend.device.hardware_profile as hardware

    policies = {"A2": "CAPACITY_AND_EXPERT_DENSITY", "A3": "FUSED_OR_CAPACITY", "A5": "CAPACITY_AND_WORLD_SIZE"}
    profile = SimpleNamespace(moe_comm_policy=hardware.MoECommPolicy[policies[soc]])
    hardware.get_current_hardware_profile = lambda: profile


@pytest.mark.parametrize("soc", ["A2", "A3", "A5"])
def test_dispatches_of_every_soc(soc: str) -> None:
    """vllm-ascend's own choice among SoCs, experts and ranks, before anything is loaded."""

    def job(rank: Rank) -> list[tuple[Any, Any, Any]]:
        import vllm_ascend.ascend_config as settings
        import vllm_ascend.ascend_forward_context as context
        import vllm_ascend.utils as ascend

        from vllm_ascend_ext.tools.check.verdicts import STACKS

        theirs, ours = DEVICES["npu"].load_stack(), STACKS[installed_pair().vllm](soc, {})
        take_for(soc)
        found = []
        for experts, fused in itertools.product((0, 64, 256, 512), (0, 1)):
            ascend._IS_MOE_MODEL = None
            settings.get_ascend_config = lambda fused=fused: SimpleNamespace(enable_fused_mc2=fused)
            context.get_ascend_config = settings.get_ascend_config
            text = SimpleNamespace(to_dict=lambda experts=experts: {"num_experts": 1} if experts else {})
            text.num_experts_per_tok = 8
            model = SimpleNamespace(
                hf_text_config=text,
                is_moe=experts > 0,
                num_experts_per_tok=8,
                get_num_experts=lambda experts=experts: experts,
            )
            for ranks, stages, has_ep in (
                (1, 1, True),
                (8, 1, True),
                (16, 1, True),
                (32, 2, True),
                (64, 1, False),
            ):
                parallel = SimpleNamespace(
                    world_size_across_dp=ranks, pipeline_parallel_size=stages, enable_expert_parallel=has_ep
                )
                given = {"enable_fused_mc2": fused}
                config = SimpleNamespace(model_config=model, parallel_config=parallel, additional_config=given)
                case = (experts, fused, ranks, stages, has_ep)
                found.append((case, theirs.dispatches(config), ours.dispatches(config)))
        return found

    [found] = run_ranks(job, Layout(), deadline_s=120)
    assert [row for row in found if row[1] != row[2]] == []
