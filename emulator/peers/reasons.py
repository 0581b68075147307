# SPDX-License-Identifier: Apache-2.0
"""Says in a few words why a test of another project failed, from what pytest wrote. Standard library only."""

from __future__ import annotations

import re

LONGEST = 110

# (what is looked for, the reason); the first that is found counts. Group 1 fills the braces.
_KNOWN: tuple[tuple[str, str], ...] = (
    (r"not emulated: operator (\w+)", "no operator {} (aclop)"),
    (r"not emulated: ((?:acl|rt|Hccl|Msprof)\w+)", "no {}"),
    (r"(aclnn\w+?)(?:GetWorkspaceSize)? (?:or \w+ )?not in lib", "no operator {}"),
    (r"asynchronous failure: (\w+) on stream \d+ of npu:\d+: ([^\n]+)", "{}: {}"),
    (r"'_OpNamespace' '(?:_C_ascend|npu|atb)' object has no attribute '(\w+)'", "no operator {}"),
    (r"'_C_ascend' object has no attribute '(\w+)'", "no operator {}"),
    (r"libatb\.so.*not emulated|(?:ATB|atb::)\S* .*not emulated", "ATB"),
    (
        r"(?i)\d active drivers|triton\S* (?:is )?not (?:found|available|installed)",
        "a device's Triton",
    ),
    (r"(?s)\w*kernel\w*\[[^\n]*\].*'function' object is not subscriptable", "a device's Triton"),
    (r"NPU out of memory\. Tried to allocate \S+ \wiB \(NPU \d+; (\S+ \w+) total", "more memory than an NPU's {}"),
    (
        r'"Expected all tensors to be on the same device, but found[^\n]* does not match "Expected all tensors',
        "the suite: this torch has other words for operands on two devices",
    ),
    (
        r"RuntimeError: (\w+) input tensors must have the same dtype, but got",
        "the suite: its reference on the CPU has two dtypes, which this torch refuses",
    ),
    (
        r"FileNotFoundError: [^\n]*/torch_npu/csrc/|Failed to build stub: [^\n]*third_party/acl",
        "the suite: it needs torch_npu's own sources, which are not beside the tests here",
    ),
    (r"RuntimeError: expectValue: 3,\s+resultValue: NCHW", "the suite: private formats, which are off"),
    (r"'NoneType' object (?:is not subscriptable|has no attribute)[^\n]*triton", "a device's Triton"),
    (r"No module named '(triton\.\S+?)'", "a device's Triton ({})"),
    (r"No module named '([\w.]+)'", "no module {}"),
    (r"cannot import name '(\w+)' from '?([\w.]+)", "no {} in an installed package"),
)


def reason(text: str) -> str:
    """Returns the reason for a failure: a known one, else the line with the exception, shortened."""
    for pattern, words in _KNOWN:
        if found := re.search(pattern, text):
            return _shortened(words.format(*(group or "" for group in found.groups())))
    lines = [line[1:].strip() for line in text.splitlines() if re.match(r"E\s{2,}\S", line)]
    line = next((line for line in lines if re.match(r"[\w.]*(?:Error|Exception|Fail\w*|Exit)\b", line)), "")
    line = line or (lines[0] if lines else next(iter(text.strip().splitlines()[-1:]), "no message"))
    return _shortened(line)


def _shortened(line: str) -> str:
    """Returns a line without numbers that differ from run to run, and of LONGEST characters at most."""
    line = re.sub(r"0x[0-9a-f]+|\d+\.\d{4,}(?:e[-+]?\d+)?", "…", line)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
