# SPDX-License-Identifier: Apache-2.0
"""Gives a method of one object of vLLM's another value for one of its module's names.

vLLM's functions look their collaborators up by name in their module. Replacing the module's name would change it
for all engines of the process. Here one object gets a copy of its method, in front of whose module's globals one
name is its own. All other names are read from the module as it is at the time of the call.
"""

from __future__ import annotations

import builtins
import dis
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.versions import what_to_install


class _OwnGlobals(dict[str, Any]):
    """Holds one name, and reads every other from a module."""

    def __init__(self, name: str, value: Any, module_globals: dict[str, Any]) -> None:
        super().__init__({name: value, "__builtins__": builtins})
        self.module_globals = module_globals

    def __missing__(self, name: str) -> Any:
        return self.module_globals[name]


def bind_own_global(
    owner: Any, method_name: str, name: str, value: Callable[..., Any], parameters: tuple[str, ...]
) -> None:
    """Makes one object's method call `value` where it calls its module's function `name`.

    A second call for the same name replaces the first.

    Args:
        owner: object whose method changes; other objects of its class do not.
        method_name: name of the method.
        name: name of the function that the method looks up in its module.
        value: function that is called instead, with the same arguments.
        parameters: names of all parameters of the function that is replaced, which `value` can take.

    Raises:
        IncompatibleVllmError: there is no such method or function, the method does not look that name up, or the
            function has other parameters, so that the change would have no effect or the wrong one.
    """
    method = getattr(owner, method_name, None)
    where = f"{type(owner).__module__}:{type(owner).__qualname__}.{method_name}"
    if problem := _problem(method, name, parameters):
        raise IncompatibleVllmError(
            f"this vLLM differs from the tested one where vllm-ascend-ext changes it: {where} {problem}. "
            f"{what_to_install()}"
        )
    function = getattr(method, "__func__", None)
    assert isinstance(function, types.FunctionType)
    own_globals = _OwnGlobals(name, value, _module_globals(function, name))
    copy = types.FunctionType(
        function.__code__, own_globals, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    setattr(owner, method_name, types.MethodType(functools.update_wrapper(copy, function), owner))


def _module_globals(function: types.FunctionType, name: str) -> dict[str, Any]:
    """Returns the globals of a function, without our own `name` where an earlier call has put it there."""
    found = function.__globals__
    return found.module_globals if isinstance(found, _OwnGlobals) and name in found else found


def _problem(method: Any, name: str, parameters: tuple[str, ...]) -> str | None:
    """Says in words what keeps `name` from having another value in the method; None where nothing does."""
    if method is None:
        return "is gone"
    function = getattr(method, "__func__", None)
    if not isinstance(function, types.FunctionType):
        return "is not a method in Python"
    uses = {step.opname for step in dis.get_instructions(function) if step.argval == name}
    if "LOAD_GLOBAL" not in uses or "STORE_GLOBAL" in uses:
        return f"does not call {name} of its module"
    try:
        current = _module_globals(function, name)[name]
    except KeyError:
        return f"calls {name}, which its module has not"
    found = tuple(inspect.signature(current).parameters)
    return None if found == parameters else f"calls {name} with parameters {', '.join(found)}"
