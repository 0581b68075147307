# SPDX-License-Identifier: Apache-2.0
"""Reads from a decoder layer of vLLM what it is made of, and says what one lacks that cannot be taken apart.

A layer is taken by what it has, not by its class: two norms over whole rows, an attention that ends with its
output projection, and an MLP or experts whose sum over the ranks is their last work, one after the other and
nothing beside. That nothing is beside is read from the source of its `forward`; what adds, scales or skips there
would be lost on the way through our own forward, without an error.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

MLP_NAMES = ("mlp", "block_sparse_moe")
# Classes whose forward is no plain sequence, and was read: DeepSeek's rescales in float16, which is refused, and
# hands on a scaling of queries, which is refused too.
READ_LAYERS, READ_MODELS = ("DeepseekV2DecoderLayer",), ("DeepseekV2Model",)
_LAYER_STEPS = ("input_layernorm", "self_attn", "post_attention_layernorm")
_MODEL_CALLS = {
    "get_pp_group",
    "islice",
    "enumerate",
    "layer",
    "len",
    "IntermediateTensors",
    "self.embed_input_ids",
    "self.norm",
    "self._maybe_add_hidden_state",
}


@dataclass(frozen=True, slots=True)
class LayerModules:
    """Holds a decoder layer's modules, by what they do."""

    input_norm: Any
    attention: Any
    output_norm: Any
    mlp: Any


def layers_of(model: Any) -> list[LayerModules]:
    """Returns the modules of all layers of a model below its head.

    Raises:
        UnsupportedCombinationError: with everything that the model or a layer lacks, each once.
    """
    described = [modules_of(layer) for layer in model.layers]
    lacks = dict.fromkeys([*model_lacks(model), *(lack for _, lacking in described for lack in lacking)])
    if lacks:
        raise UnsupportedCombinationError(
            f"ascend_ext.attn_scatter cannot take the layers of {type(model).__name__} apart: "
            f"{'; '.join(lacks)}; set attn_scatter.enabled to false"
        )
    return [modules for modules, _ in described if modules is not None]


def modules_of(layer: Any) -> tuple[LayerModules | None, list[str]]:
    """Returns a layer's modules, or None and what it lacks, in words."""
    name = next((name for name in MLP_NAMES if hasattr(layer, name)), "mlp")
    found = [getattr(layer, part, None) for part in (*_LAYER_STEPS, name)]
    lacks = [f"no {part}" for part, module in zip((*_LAYER_STEPS, name), found, strict=True) if module is None]
    if lacks:
        return None, lacks
    modules = LayerModules(found[0], found[1], found[2], found[3])
    others = [child for child, _ in layer.named_children() if child not in (*_LAYER_STEPS, name)]
    lacks += [f"a {child} beside norms, attention and MLP" for child in others]
    lacks += [*_norm_lacks(modules.input_norm, "input_layernorm")]
    lacks += [*_norm_lacks(modules.output_norm, "post_attention_layernorm")]
    lacks += [*_attention_lacks(modules.attention), *_mlp_lacks(modules.mlp, name)]
    if type(layer).__name__ not in READ_LAYERS:
        lacks += layer_forward_lacks(type(layer).forward, name)
    return (None if lacks else modules), lacks


def model_lacks(model: Any) -> list[str]:
    """Returns what a model below its head lacks: an embedding alone, layers in a row, one norm at their end."""
    children = [child for child, _ in model.named_children() if child not in ("embed_tokens", "layers", "norm")]
    lacks = [f"a {child} beside embedding, layers and norm" for child in children]
    lacks += [*_norm_lacks(getattr(model, "norm", None), "norm")]
    if type(model).__name__ not in READ_MODELS:
        lacks += model_forward_lacks(type(model))
    return lacks


def model_forward_lacks(kind: Any) -> list[str]:
    """Returns what the forward of a class of models does beside embedding, layers and norm."""
    body = _body(kind.forward)
    extra = [call for call in _calls(body) if call not in _MODEL_CALLS]
    lacks = [f"{kind.__name__}.forward calls {call}" for call in dict.fromkeys(extra)]
    lacks += [f"{kind.__name__}.forward computes {text}" for text in _arithmetic(body)]
    embed = _body(kind.embed_input_ids)
    if _calls(embed) != ["self.embed_tokens"] or [*_arithmetic(embed)]:
        lacks.append(f"{kind.__name__}.embed_input_ids does more than look rows up")
    return lacks


def layer_forward_lacks(forward: Callable[..., Any], mlp: str) -> list[str]:
    """Returns what a layer's forward does beside norm, attention, norm and MLP in this order."""
    body = _body(forward)
    steps = list(dict.fromkeys(_calls(body)))
    expected = [f"self.{step}" for step in (*_LAYER_STEPS, mlp)]
    lacks = [f"a forward that computes {text}" for text in _arithmetic(body)]
    if steps != expected:
        lacks.append(f"a forward that calls {', '.join(steps)}, not {', '.join(expected)}")
    return lacks


def _norm_lacks(norm: Any, name: str) -> Iterator[str]:
    from vllm.model_executor.layers.layernorm import RMSNorm

    if not isinstance(norm, RMSNorm) or not norm.has_weight or norm.variance_size_override is not None:
        yield f"{name}, a {type(norm).__name__}, is no RMS norm over a whole row"


def _attention_lacks(attention: Any) -> Iterator[str]:
    if not _sums(getattr(attention, "o_proj", None)):
        yield "self_attn.o_proj sums nothing over the ranks"
    if getattr(attention, "mla_attn", None) is None and not _ends_with(type(attention).forward, "self.o_proj"):
        yield f"{type(attention).__name__}.forward returns something else than self.o_proj's output"


def _mlp_lacks(mlp: Any, name: str) -> Iterator[str]:
    experts = getattr(mlp, "experts", None)
    if experts is None and not _sums(getattr(mlp, "down_proj", None)):
        yield f"{name} has neither experts nor a down_proj that sums over the ranks"
    if experts is not None and getattr(experts, "runner", None) is None:
        yield f"{name}.experts, a {type(experts).__name__}, has no runner"
    if experts is None and not _ends_with(type(mlp).forward, "self.down_proj"):
        yield f"{type(mlp).__name__}.forward returns something else than self.down_proj's output"
    if any("all_reduce" in call for call in _calls(_body(type(mlp).forward))):
        yield f"{type(mlp).__name__}.forward sums over the ranks by itself"


def _sums(linear: Any) -> bool:
    return bool(getattr(linear, "reduce_results", False))


def _ends_with(forward: Callable[..., Any], call: str) -> bool:
    """Returns whether the last thing that a forward does is to call this and return what it returned."""
    *_, before, last = [None, *_body(forward)]
    if not isinstance(last, ast.Return) or not isinstance(before, ast.Assign):
        return False
    targets = before.targets[0].elts if isinstance(before.targets[0], ast.Tuple) else before.targets
    is_call = isinstance(before.value, ast.Call) and ast.unparse(before.value.func) == call
    return is_call and last.value is not None and ast.unparse(last.value) == ast.unparse(targets[0])


def _body(function: Callable[..., Any]) -> list[ast.stmt]:
    """Returns the statements of a function, without its docstring."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.FunctionDef)
    first = definition.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return definition.body[1:] if is_docstring else definition.body


def _calls(body: list[ast.stmt]) -> list[str]:
    """Returns what is called, as it is written, in the order of the source."""
    nodes = [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    return [ast.unparse(node.func) for node in nodes]


def _arithmetic(body: list[ast.stmt]) -> Iterator[str]:
    """Yields what is computed by operators, but for numbers that count layers."""
    for statement in body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.AugAssign | ast.BinOp):
                continue
            text = ast.unparse(node)
            if re.fullmatch(r"(layer_)?idx \+ 1", text) is None:
                yield text
