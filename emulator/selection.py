# SPDX-License-Identifier: Apache-2.0
"""Reads what a pytest marker expression asks for. Standard library only."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection, Mapping


def _value(node: ast.expr, present: Mapping[str, bool]) -> bool:
    if isinstance(node, ast.BoolOp):
        values = [_value(child, present) for child in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.UnaryOp):
        return not _value(node.operand, present)
    if isinstance(node, ast.Call):  # marker(argument=value)
        return _value(node.func, present)
    assert isinstance(node, ast.Name)
    return present[node.id]


def selects_only(expression: str, markers: Collection[str]) -> bool:
    """Returns whether every test that the expression selects must have one of ``markers``: "npu", "npu and not
    slow"."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError:
        return False
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = (ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.Call, ast.keyword, ast.Constant, ast.Name)
    if not names or not all(isinstance(node, (*known, ast.expr_context)) for node in ast.walk(tree)):
        return False
    others = sorted(names - set(markers))
    absent = dict.fromkeys(markers, False)
    choices = itertools.product((False, True), repeat=len(others))
    return not any(_value(tree, absent | dict(zip(others, choice, strict=True))) for choice in choices)
