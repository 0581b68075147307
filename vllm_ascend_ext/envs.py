# SPDX-License-Identifier: Apache-2.0
"""Reads environment variables: build and debug switches only, every one listed in `ENVIRONMENT`.

This is the only module that touches ``os.environ``. Variables are read when asked for, never at import.
What a user configures belongs in `vllm_ascend_ext.config`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the attributes of this module, read from the environment by __getattr__
    VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM: bool
    VLLM_ASCEND_EXT_STRICT_OPS: bool
    VLLM_ASCEND_EXT_BUILD: Literal["auto", "none", "channel", "host", "npu"]
    VLLM_ASCEND_EXT_LIB: str

_SWITCH = {"0": False, "false": False, "1": True, "true": True}


class EnvironmentVariableError(ValueError):
    """Reports a variable with a value that it does not accept."""


@dataclass(frozen=True, slots=True)
class Variable:
    """Describes one environment variable, as the documentation and `doctor` show it.

    Attributes:
        values: what each accepted spelling, in lower case, means; None: any text, taken as it is.
        default: the spelling that counts when the variable is not set.
    """

    name: str
    values: Mapping[str, bool | str] | None
    default: str
    meaning: str

    def read(self) -> bool | str:
        """Returns the present value.

        Raises:
            EnvironmentVariableError: the variable is set to none of the accepted spellings.
        """
        return self.meaning_of(os.environ.get(self.name, self.default))

    def meaning_of(self, spelling: str) -> bool | str:
        """Returns what the variable set to `spelling` means.

        Raises:
            EnvironmentVariableError: it is none of the accepted ones.
        """
        if self.values is None:
            return spelling
        if spelling.lower() not in self.values:
            raise EnvironmentVariableError(f"{self.name}={spelling!r}: expected one of {', '.join(self.values)}")
        return self.values[spelling.lower()]


ENVIRONMENT: Mapping[str, Variable] = MappingProxyType(
    {
        variable.name: variable
        for variable in (
            Variable(
                "VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM",
                values=_SWITCH,
                default="0",
                meaning="Start with a vLLM version this release was not tested with, instead of refusing it.",
            ),
            Variable(
                "VLLM_ASCEND_EXT_STRICT_OPS",
                values=_SWITCH,
                default="0",
                meaning="Refuse to start when an operator has only its reference on the device in use.",
            ),
            Variable(
                "VLLM_ASCEND_EXT_BUILD",
                values={choice: choice for choice in ("auto", "none", "channel", "host", "npu")},
                default="auto",
                meaning="What setup.py compiles: nothing, the channel of mtp_output, or that and the AscendC "
                "kernels for the host or the NPU; auto: the NPU where ASCEND_HOME_PATH is set, else the channel "
                "where a C++ compiler is.",
            ),
            Variable(
                "VLLM_ASCEND_EXT_LIB",
                values=None,
                default="",
                meaning="Folder of libascend_ext_npu.so and libascend_ext_kernels.so; empty: lib/ in the package.",
            ),
        )
    }
)
"""Every variable of the package, by name."""


def __getattr__(name: str) -> bool | str:
    """Returns the present value of a variable for ``envs.<NAME OF A VARIABLE>``.

    Raises:
        EnvironmentVariableError: the variable is set to something it does not accept.
        AttributeError: there is no such variable.
    """
    if name not in ENVIRONMENT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return ENVIRONMENT[name].read()


def is_set(name: str) -> bool:
    """Returns whether an environment variable, of whomever, is set."""
    return name in os.environ


def export(values: Mapping[str, str]) -> None:
    """Sets environment variables of this process for the children it will start. Nothing else may set any."""
    os.environ.update(values)
