# SPDX-License-Identifier: Apache-2.0
"""Judges a command: for each feature whether it starts, by the rules that start-up asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Refusal
from vllm_ascend_ext.integration.registry import FEATURES, enabled
from vllm_ascend_ext.integration.startup.checks import refusals_in
from vllm_ascend_ext.integration.upstream.devices import DEVICES
from vllm_ascend_ext.integration.upstream.versions import Pair, installed_pair
from vllm_ascend_ext.tools.check.ascend_choice import CommandStack
from vllm_ascend_ext.tools.check.ascend_choice_030 import CommandStack030
from vllm_ascend_ext.tools.check.deployment_class import DeploymentClass, class_of
from vllm_ascend_ext.tools.check.model_facts import read_model, scheme_of
from vllm_ascend_ext.tools.check.parsed_config import build
from vllm_ascend_ext.tools.check.serve_options import model_of, read_for
from vllm_ascend_ext.tools.check.shell_text import ServeCommand
from vllm_ascend_ext.tools.check.verified.proof import proof_of
from vllm_ascend_ext.tools.check.verified.rows import rows_of

State = Literal["starts", "unverified", "refused"]
NAMES = tuple(feature.name for feature in FEATURES)
# version of vLLM, by which pairs are named -> what answers for vllm-ascend
STACKS = {stack.pair.vllm: stack for stack in (CommandStack, CommandStack030)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Holds what comes of a command for one feature on one SoC.

    Attributes:
        state: "starts": tests have verified this class; "unverified": nothing speaks against it, but tests lack
            something of it.
        reasons: every refusal.
        tests: those that verify the class, of a feature that starts.
        lacks: what no test has run, of a feature that is unverified.
    """

    feature: str
    soc: str
    state: State
    reasons: tuple[Refusal, ...]
    deployment: DeploymentClass
    tests: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """Holds a command with what is asked about it.

    socs: the SoCs to answer for. model_config: a config.json in the model's place.
    features: the features to answer for; () for those that the command turns on, and all where it turns on none.
    scheme: widths of quantised weights, if known better than by the model's name.
    pair: the versions of vLLM and vllm-ascend to answer for.
    """

    command: ServeCommand
    socs: Sequence[str]
    features: Sequence[str] = ()
    model_config: Path | None = None
    scheme: str = ""
    pair: Pair = field(default_factory=installed_pair)


def judge(question: Question) -> list[Verdict]:
    """Returns a verdict for each feature and SoC; raises CommandError for a command that cannot be judged."""
    command = question.command
    options, unread = read_for(question.pair, command.arguments)
    overrides = options.hf_overrides if isinstance(options.hf_overrides, Mapping) else {}
    facts = read_model(model_of(options), question.model_config, overrides)
    if question.scheme:
        facts = dataclasses.replace(facts, scheme=scheme_of(f"{question.scheme} {facts.name}"))
    section, wrong = ExtConfig.salvage(options.additional_config or None)
    config = section or ExtConfig()
    names = question.features or [feature.name for feature in enabled(config)] or NAMES
    places = [line.partition(": ") for line in wrong]
    problems = [Refusal(f"{place}:", place, why, "correct it") for place, _, why in places]
    verdicts = []
    for soc in question.socs:
        stack = STACKS[question.pair.vllm](soc, command.environment)
        vllm_config = build(options, facts, stack)
        deployment = class_of(vllm_config, facts, stack)
        for name in names:
            only = _only(config, name)
            refused = refusals_in(Deployment(vllm_config, only, DEVICES["npu"], stack))
            reasons = (*problems, *refused)
            verdicts.append(_verdict(name, soc, reasons, deployment, question.pair, unread))
    return verdicts


def _verdict(
    feature: str,
    soc: str,
    reasons: tuple[Refusal, ...],
    deployment: DeploymentClass,
    pair: Pair,
    unread: tuple[str, ...],
) -> Verdict:
    if reasons:
        return Verdict(feature, soc, "refused", reasons, deployment)
    proof = proof_of(feature, deployment, rows_of(pair))
    if lacks := (*proof.lacks, *unread):
        return Verdict(feature, soc, "unverified", (), deployment, lacks=lacks)
    return Verdict(feature, soc, "starts", (), deployment, tests=proof.tests)


def _only(config: ExtConfig, feature: str) -> ExtConfig:
    """Returns a configuration in which one feature is on, with what the command says about it."""
    section: Any = getattr(config, feature).model_dump() | {"enabled": True}
    return ExtConfig.model_validate({feature: section})


def worst(verdicts: Sequence[Verdict]) -> State:
    """Returns the state that counts for several SoCs together."""
    order: tuple[State, ...] = ("refused", "unverified", "starts")
    return next(state for state in order if any(verdict.state == state for verdict in verdicts))
