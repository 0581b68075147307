# SPDX-License-Identifier: Apache-2.0
"""Defines `Seam`, which is one symbol of vLLM or vllm-ascend that we rely on beyond their public interfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vllm_ascend_ext.integration.upstream.versions import PAIR_0_23, PAIR_0_30, PAIRS, Pair

# replace: another object takes its place. wrap: a function of ours calls it. override: a class of ours derives
# from its class and redefines it. read: we use it as it is. mark: we attach an attribute of our own to it.
Kind = Literal["replace", "wrap", "override", "read", "mark"]
Feature = Literal[
    "eplb_load", "dp_gather", "attn_scatter", "mtp_output", "cpu_platform", "server", "startup", "runner"
]
ALWAYS: tuple[Feature, ...] = ("runner", "server", "startup", "cpu_platform")  # whatever features are on
DEVICES = ("cpu", "cuda", "npu")
ALL_PAIRS = tuple(pair.vllm for pair in PAIRS)
ON_0_23, ON_0_30 = (PAIR_0_23.vllm,), (PAIR_0_30.vllm,)


@dataclass(frozen=True, slots=True)
class Seam:
    """Describes one symbol that we rely on.

    target: "package.module:name" or "package.module:Class.attribute", where the symbol is defined or looked up.
        The class is the one whose own body defines the attribute, not one that inherits it: a method that has
        moved to another class has other callers, and an override of it would silently never be called.
    kind: what we do with it.
    feature: the configuration key, or the part of the package, that needs it.
    devices: kinds of device on which it is used.
    why: reason that no public interface serves.
    remove_when: change of vLLM or vllm-ascend that makes the row obsolete.
    parameters: names, in order, that our call or our override passes on; None when it is no function.
    upstream: link to an issue; by default to the source.
    pairs: versions of vLLM (`versions.PAIRS`) with which the symbol is there and used.
    """

    target: str
    kind: Kind
    feature: Feature
    devices: tuple[str, ...]
    why: str
    remove_when: str
    parameters: tuple[str, ...] | None = None
    upstream: str = ""
    pairs: tuple[str, ...] = ALL_PAIRS

    def is_used(self, device_type: str, pair: Pair) -> bool:
        """Returns whether we rely on the symbol on a kind of device with a pair of versions."""
        is_about = device_type in self.devices and pair.vllm in self.pairs
        return is_about and device_type in pair.devices and self.feature not in pair.unverified

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]

    @property
    def path(self) -> tuple[str, ...]:
        """Returns the names that lead from the module to the symbol."""
        return tuple(self.target.partition(":")[2].split("."))

    @property
    def name(self) -> str:
        """Returns the symbol's own name, without its class."""
        return self.path[-1]

    @property
    def link(self) -> str:
        """Returns a web address: the upstream issue if there is one, else the source."""
        if self.upstream:
            return self.upstream
        pair = next(pair for pair in PAIRS if pair.vllm in self.pairs)
        project, version = ("vllm", pair.vllm) if self.package == "vllm" else ("vllm-ascend", pair.vllm_ascend)
        file = self.module.replace(".", "/") + ".py"
        return f"https://github.com/vllm-project/{project}/blob/v{version}/{file}"


def members(
    owner: str,
    names: Mapping[str, tuple[str, ...] | None],
    kind: Kind,
    feature: Feature,
    devices: tuple[str, ...],
    *,
    why: str,
    remove_when: str,
    pairs: tuple[str, ...] = ALL_PAIRS,
) -> tuple[Seam, ...]:
    """Returns a row for each member of one class or module.

    owner: "package.module:Class", or "package.module".
    names: member → parameters, as in `Seam`.
    """
    separator = "." if ":" in owner else ":"
    return tuple(
        Seam(f"{owner}{separator}{name}", kind, feature, devices, why, remove_when, parameters, pairs=pairs)
        for name, parameters in names.items()
    )


def of_pair(rows: Sequence[Seam], pair: Pair) -> Seam:
    """Returns the row about a pair, of rows that stand for one symbol and differ by pair."""
    (row,) = [row for row in rows if pair.vllm in row.pairs]
    return row
