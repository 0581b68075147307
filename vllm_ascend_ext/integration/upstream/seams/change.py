# SPDX-License-Identifier: Apache-2.0
"""Sets attributes on objects of vLLM, vllm-ascend and torch; no other module does.

A function that replaces an attribute checks first that the attribute is there. So no change misses in silence,
also in processes that the start-up check (`check`) has not run in.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.seams.seam import Seam
from vllm_ascend_ext.integration.upstream.versions import what_to_install


def replace(seam: Seam, value: Any, owner: Any = None) -> None:
    """Puts `value` in the place of a seam's symbol; doing it twice changes nothing.

    owner: the object whose attribute it is; None for what the seam's module, or a class in it, has.

    Raises IncompatibleVllmError when the symbol is gone or has other parameters than the seam expects.
    """
    replace_all([(seam, value)], owner)


def replace_all(replacements: Iterable[tuple[Seam, Any]], owner: Any = None) -> None:
    """Replaces all symbols or, where one has changed, none; raises as `replace` does, naming every one."""
    rows = [(seam, value, *_resolve(seam, value, owner)) for seam, value in replacements]
    problems = {seam: problem for seam, _, _, problem in rows if problem is not None}
    if problems:
        raise IncompatibleVllmError(
            "this vLLM differs from the tested one where vllm-ascend-ext changes it: "
            + "; ".join(problems.values())
            + f". {what_to_install(*(seam.package for seam in problems))}"
        )
    for seam, value, holder, _ in rows:
        if getattr(holder, seam.name) is not value:
            setattr(holder, seam.name, value)


def wrap(seam: Seam, owner: Any | None, wrapper: Callable[[Any], Any]) -> None:
    """Puts what `wrapper` makes of an object's present attribute in its place; doing it twice wraps twice.

    owner: as for `replace`, which also says what is raised.
    """
    if owner is None:
        owner = Change(seam, None).owner
    else:
        _require(seam, owner)
    setattr(owner, seam.name, wrapper(getattr(owner, seam.name)))


def present(seam: Seam) -> Any:
    """Returns what a seam's module, or a class in it, has there now; raises as `replace` does."""
    return getattr(Change(seam, None).owner, seam.name)


def mark(seam: Seam, owner: Any, name: str, value: Any) -> None:
    """Attaches an attribute of ours to an object that vLLM hands on; the seam says which object.

    Raises IncompatibleVllmError when the object's class has an attribute of that name, which would be hidden.
    """
    if hasattr(type(owner), name):
        raise IncompatibleVllmError(
            f"this vLLM differs from the tested one: {type(owner).__name__} has a {name} of its own "
            f"({seam.target}). {what_to_install(seam.package)}"
        )
    setattr(owner, name, value)


def stand_in(owner: Any, name: str, value: Any) -> None:
    """Replaces a public name of a library whose versions the table does not follow: torch, Starlette."""
    if not hasattr(owner, name):
        raise IncompatibleVllmError(f"{owner!r} has no {name}. {what_to_install()} with what it depends on")
    setattr(owner, name, value)


def row_for(rows: Sequence[Seam], owner: Any) -> Seam:
    """Returns the row about the class of an object; raises IncompatibleVllmError when none is."""
    classes = {cls.__name__ for cls in type(owner).__mro__}
    for seam in rows:
        if seam.path[0] in classes:
            return seam
    raise IncompatibleVllmError(
        f"this vLLM differs from the tested one: {type(owner).__name__} is none of "
        f"{', '.join(seam.path[0] for seam in rows)}. {what_to_install()}"
    )


class Change:
    """Describes a value that an attribute is to have for a while.

    owner: the object whose attribute it is; None for what the seam's module has.

    Raises:
        IncompatibleVllmError: there is no such attribute, so that the change would do nothing.
    """

    def __init__(self, seam: Seam, value: Any, owner: Any = None) -> None:
        if owner is not None:
            _require(seam, owner)
        else:
            owner, problem = _resolve(seam, value, None)
            if problem is not None:
                raise IncompatibleVllmError(f"{problem}. {what_to_install(seam.package)}")
        self.name, self.value, self.owner = seam.name, value, owner


@contextmanager
def temporarily(changes: Iterable[Change]) -> Iterator[None]:
    """Makes all changes for the duration of a block, and takes them back however the block ends."""
    restore: list[Callable[[], None]] = []
    try:
        for change in changes:
            restore.append(_restoration(change.owner, change.name))
            setattr(change.owner, change.name, change.value)
        yield
    finally:
        for undo in reversed(restore):
            undo()


def _restoration(owner: Any, name: str) -> Callable[[], None]:
    """Returns what brings the present value back; a class's method shows again when the object's own is gone."""
    own = vars(owner)
    if name in own:
        return partial(setattr, owner, name, own[name])
    if name in own.get("_modules", ()):  # child modules of torch
        return partial(setattr, owner, name, getattr(owner, name))
    return partial(delattr, owner, name)


def _require(seam: Seam, owner: Any) -> None:
    if not hasattr(owner, seam.name):
        kind = owner if isinstance(owner, type) else type(owner)
        raise IncompatibleVllmError(
            f"this vLLM differs from the tested one: {kind.__name__} has no {seam.name} ({seam.target}). "
            f"{what_to_install(seam.package)}"
        )


def _resolve(seam: Seam, value: Any, owner: Any) -> tuple[Any, str | None]:
    """Returns (the object that has the attribute, problem or None)."""
    try:
        if owner is None:
            owner = importlib.import_module(seam.module)
            for parent in seam.path[:-1]:
                owner = getattr(owner, parent)
        current = getattr(owner, seam.name)
    except (ImportError, AttributeError) as error:
        return None, f"{seam.target} is gone ({error})"
    if seam.parameters is None or current is value:
        return owner, None
    found = tuple(inspect.signature(current).parameters)
    if missing := [name for name in seam.parameters if name not in found]:
        return owner, f"{seam.target} has no parameter {', '.join(missing)} (it has {', '.join(found)})"
    return owner, None
