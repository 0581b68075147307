# SPDX-License-Identifier: Apache-2.0
"""Collects for `vllm-ascend-ext doctor` what is installed, what would run, what is untested here and what is
broken.

`examine` returns what `doctor --json` prints; all keys are always present, new ones may be added:

* `schema`: 2. `versions`: distribution → version, null when absent.
* `pairs`: list of `vllm`, `vllm_ascend`, `installed`, `unverified` (what is refused with it; null without torch).
* `platform`: `platform_class`, `device_type`, `worker_class`, `runner_class` (null when vLLM cannot tell).
* `entry_points`: list of `group`, `name`, `value`. `parts`: list of `part`, `active`, `why`.
* `devices`: list of `device`, `found`, `description` (or why not), `capabilities` (null unless found).
* `operators`: list of `op`, `device`, `kind`, `reason` (why there is no kernel, else null).
* `environment`: list of `name`, `value`, `default`, `meaning`.
* `untested`: list of `device`, `parts` (files and kernels): what cannot have run on this machine.
* `seams`: list of `device`, `target`, `kind`, `feature`, `state`, `found`, `why`, `upstream`, `remove_when` (see
  `examine_seams`).
* `problems`: list of `problem`, `fix`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vllm_ascend_ext
from vllm_ascend_ext import envs
from vllm_ascend_ext.integration.startup import plugin
from vllm_ascend_ext.integration.upstream import versions
from vllm_ascend_ext.integration.upstream.devices import DEVICES
from vllm_ascend_ext.tools.doctor.checks import Problem, distribution_version, installation_problems
from vllm_ascend_ext.tools.doctor.seams import broken_seams, examine_seams

SCHEMA = 2
_NAME = "vllm-ascend-ext"
_DISTRIBUTIONS = (
    "torch",
    "vllm",
    "vllm-ascend",
    "torch-npu",
    "transformers",
    "triton",
    "triton-ascend",
    "matplotlib",
)
_GENERAL, _PLATFORM = "vllm.general_plugins", "vllm.platform_plugins"
_LOGGING = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}


def examine() -> dict[str, Any]:
    """Examines this installation; what is missing or broken becomes a problem, never an exception."""
    envs.export(_LOGGING)
    problems = installation_problems()
    environment = _environment(problems)
    facts = _platform(problems)
    entry_points = _entry_points(problems)
    devices = _devices()
    operators = _operators()
    parts = [*_plugin_parts(entry_points, facts), _channel_part(problems), *_feature_parts()]
    absent = [row["device"] for row in devices if not row["found"]]
    return {
        "schema": SCHEMA,
        "versions": _versions(),
        "pairs": _pairs(),
        "platform": facts,
        "entry_points": entry_points,
        "parts": parts,
        "devices": devices,
        "operators": operators,
        "environment": environment,
        "untested": [{"device": device, "parts": _parts_of(device, operators)} for device in absent],
        "seams": _seams(problems),
        "problems": [asdict(problem) for problem in problems],
    }


def _versions() -> dict[str, str | None]:
    own = {_NAME: vllm_ascend_ext.__version__, "python": platform.python_version()}
    return own | {name: distribution_version(name) for name in _DISTRIBUTIONS}


def _pairs() -> list[dict[str, Any]]:
    """Describes the tested pairs of vLLM and vllm-ascend: which is installed, and what is refused with each."""
    names = ("vllm", "vllm-ascend")
    installed = tuple((distribution_version(name) or "").partition("+")[0] for name in names)
    return [
        {
            "vllm": pair.vllm,
            "vllm_ascend": pair.vllm_ascend,
            "installed": installed == (pair.vllm, pair.vllm_ascend),
            "unverified": _unverified(pair),
        }
        for pair in versions.PAIRS
    ]


def _unverified(pair: versions.Pair) -> list[str] | None:
    """Returns the ways to serve and the features that have not run with a pair; None without torch."""
    try:
        return sorted(DEVICES["npu"].load_stack(pair).unverified)
    except (ImportError, OSError):
        return None


def _platform(problems: list[Problem]) -> dict[str, str | None]:
    """Imports vLLM and asks it which classes would run."""
    names = ("platform_class", "device_type", "worker_class", "runner_class")
    facts: dict[str, str | None] = dict.fromkeys(names)
    if distribution_version("vllm") is None:
        return facts
    try:
        from vllm.platforms import current_platform

        facts["platform_class"] = _class_name(type(current_platform))
        facts["device_type"] = device_type = str(current_platform.device_type)
        if device_type not in DEVICES:
            known = ", ".join(DEVICES)
            problems.append(Problem(f"vLLM has chosen no device we run on ({device_type!r})", f"use {known}"))
            return facts
        facts["worker_class"] = path = DEVICES[device_type].worker
        module, _, name = path.rpartition(".")
        worker = getattr(importlib.import_module(module), name)
        facts["runner_class"] = _class_name(worker.model_runner_class)
    except Exception as error:  # an import of vLLM can fail in any way
        fix = "fix the other problems first, if any; then set up again (scripts/setup.sh)"
        problems.append(Problem(f"vLLM cannot be imported ({_first_line(error)})", fix))
    return facts


def _entry_points(problems: list[Problem]) -> list[dict[str, str]]:
    rows = [
        {"group": group, "name": entry.name, "value": entry.value}
        for group in (_GENERAL, _PLATFORM)
        for entry in importlib.metadata.entry_points(group=group)
    ]
    ours = [row for row in rows if row["value"].startswith("vllm_ascend_ext.")]
    if missing := [group for group in (_GENERAL, _PLATFORM) if group not in {row["group"] for row in ours}]:
        problems.append(
            Problem(f"no entry point of ours in {', '.join(missing)}: vLLM will not load us", "`pip install -e .`")
        )
    return rows


def _plugin_parts(entry_points: list[dict[str, str]], facts: dict[str, str | None]) -> list[dict[str, Any]]:
    """Describes our two plug-ins: whether vLLM loads them, and why not."""
    general = any(row["group"] == _GENERAL and "vllm_ascend_ext" in row["value"] for row in entry_points)
    try:
        candidate = plugin.cpu_platform()
    except (ImportError, OSError):  # as in _operators
        candidate = None
    chosen = facts["platform_class"]
    if candidate is None:
        why = (
            "another platform is installed (vllm-ascend, torch_npu, a torch that sees a GPU, a vLLM built for the "
            "CPU), or no torch"
        )
    elif chosen is None:
        why = "vLLM cannot be imported"
    elif chosen == candidate:
        why = "neither vllm-ascend nor torch_npu is installed and torch sees no GPU"
    else:
        why = f"vLLM chose {chosen}; VLLM_PLUGINS may leave ours out"
    allowed = None if chosen is None else _allowed_plugins()
    loaded = general and chosen is not None and (allowed is None or "ascend_ext" in allowed)
    reason = "vLLM loads it in every process" if loaded else "no entry point, or vLLM cannot be imported"
    if general and allowed is not None and "ascend_ext" not in allowed:
        reason = "VLLM_PLUGINS leaves it out; add ascend_ext,ascend_ext_cpu to it or unset it"
    return [
        {"part": "plug-in ascend_ext", "active": loaded, "why": reason},
        {"part": "CPU platform", "active": candidate is not None and chosen == candidate, "why": why},
    ]


def _allowed_plugins() -> list[str] | None:
    """Returns vLLM's VLLM_PLUGINS; None when it allows all."""
    import vllm.envs

    allowed: list[str] | None = vllm.envs.VLLM_PLUGINS
    return allowed


def _channel_part(problems: list[Problem]) -> dict[str, Any]:
    """Describes which of its two backends the ring of MTP output has here."""
    row = {"part": "C++ channel of mtp_output", "active": False}
    try:
        from vllm_ascend_ext.mtp_output.ring.backend import NO_CPP_NOTE, installed_backend

        module = installed_backend().module
    except ImportError as error:
        return row | {"why": f"no channel at all: {_first_line(error)}"}
    except OSError as error:
        fix = "reinstall with VLLM_ASCEND_EXT_BUILD=channel, or remove that file"
        problems.append(Problem(f"mtp_output cannot start: {error}", fix))
        return row | {"why": "its module does not fit this installation"}
    return row | {"active": module is not None, "why": module.__file__ if module else NO_CPP_NOTE}


def _feature_parts() -> list[dict[str, Any]]:
    from vllm_ascend_ext.config import KEY, ExtConfig

    return [
        {
            "part": f"feature {name}",
            "active": False,
            "why": f"{summary}: off until asked for, "
            f'additional_config={{"{KEY}": {{"{name}": {{"enabled": true}}}}}}',
        }
        for name, summary in zip(ExtConfig.sections(), _summaries(), strict=False)
    ]


def _summaries() -> list[str]:
    """Returns what each feature does; without torch the registry cannot be imported, and nothing is said."""
    try:
        from vllm_ascend_ext.integration.registry import FEATURES
    except (ImportError, OSError):
        from vllm_ascend_ext.config import ExtConfig

        return ["needs torch"] * len(ExtConfig.sections())
    return [feature.summary for feature in FEATURES]


def _devices() -> list[dict[str, Any]]:
    rows = []
    for device_type in sorted(DEVICES):
        row: dict[str, Any] = {"device": device_type, "found": False, "capabilities": None}
        try:
            from vllm_ascend_ext.device import create_device

            capabilities = asdict(create_device(device_type).capabilities)
            row["description"] = capabilities.pop("description")
            row |= {"found": True, "capabilities": capabilities}
        except Exception as error:  # an import of torch or torch_npu can fail in any way
            row["description"] = _first_line(error)
        rows.append(row)
    return rows


def _operators() -> list[dict[str, str | None]]:
    try:
        from vllm_ascend_ext import ops
    except (ImportError, OSError):  # no torch, or one whose libraries are missing
        return []
    return [
        {"op": row.op, "device": row.device_type, "kind": row.kind, "reason": row.reason}
        for row in ops.coverage(sorted(DEVICES))
    ]


def _environment(problems: list[Problem]) -> list[dict[str, Any]]:
    rows = []
    for variable in envs.ENVIRONMENT.values():
        row = {"name": variable.name, "value": None, "default": variable.meaning_of(variable.default)}
        try:
            row["value"] = variable.read()
        except envs.EnvironmentVariableError as error:
            problems.append(Problem(str(error), f"set {variable.name} to one of these or unset it"))
        rows.append(row | {"meaning": variable.meaning})
    return rows


def _parts_of(device_type: str, operators: list[dict[str, str | None]]) -> list[str]:
    """Describes the device's own files, and the operators' kernels for it."""
    package = Path(vllm_ascend_ext.__file__).parent
    files = [str(path.relative_to(package.parent)) for path in sorted(package.rglob(f"{device_type}.py"))]
    kernels = [
        f"{row['op']} ({row['kind']})"
        for row in operators
        if row["device"] == device_type and row["kind"] != "reference"
    ]
    return files + kernels


def _seams(problems: list[Problem]) -> list[dict[str, Any]]:
    """Returns the table of seams; what the installed versions lack becomes problems."""
    rows = examine_seams()
    fix = f"{versions.what_to_install().lower()}; `doctor --seams` lists all"
    problems.extend(Problem(problem, fix) for problem in broken_seams(rows))
    return rows


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
