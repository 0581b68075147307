# SPDX-License-Identifier: Apache-2.0
"""Moves KV caches from a prefill engine to a decode engine of one machine through files: a connector of vLLM.

The producer writes the cache of a prompt when its last token has been computed, on each rank its own part. The
consumer loads all of it but the last token, whose pass gives the first token. It loads before a request's first
pass, or as connectors between machines do: the request waits, meanwhile steps may have no pass, and a later step
tells that the cache is there.

A model with several kinds of caches has blocks of each, of which those of a window are there for its last tokens
only (block 0 stands for the others); what both engines have moves.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.distributed import get_pp_group, get_tp_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)

NAME = "FileConnector"
FIRST = "0-0"  # the first rank's part of a cache
_NOBODY = 0  # the block in the place of those that a window has left
Blocks = list[list[int]]  # of each kind of cache


def transfer(role: str, folder: Path, *, waits: bool = False) -> dict[str, Any]:
    """Returns the arguments `kv_transfer_config` of an engine.

    role: kv_producer, kv_consumer or kv_both. waits: whether requests wait for their caches.
    """
    return {
        "kv_connector": NAME,
        "kv_connector_module_path": __name__,
        "kv_role": role,
        "kv_connector_extra_config": {"folder": str(folder), "waits": waits},
    }


@dataclass
class Moves(KVConnectorMetadata):
    """Holds a step's moves: of each prompt its name and its blocks. awaited: names of the requests that wait for a
    load of this step."""

    saves: list[tuple[str, Blocks]] = field(default_factory=list)
    loads: list[tuple[str, Blocks]] = field(default_factory=list)
    awaited: set[str] = field(default_factory=set)


class FileConnector(KVConnectorBase_V1, SupportsHMA):
    """Implements vLLM's connector for its scheduler and for its workers."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer_config = vllm_config.kv_transfer_config
        self._folder = Path(transfer_config.get_from_extra_config("folder", ""))
        self._waits = bool(transfer_config.get_from_extra_config("waits", False))
        self._awaited = Moves()  # loads of the next step
        self._loaded: set[str] = set()
        self._arrived: set[str] = set()
        self._saves, self._loads = transfer_config.is_kv_producer, transfer_config.is_kv_consumer
        groups = enumerate(kv_cache_config.kv_cache_groups)
        self._group_of = {layer: number for number, group in groups for layer in group.layer_names}
        self._caches: dict[str, Any] = {}
        self._to_load: set[str] = set()
        self._unsaved: dict[str, tuple[list[int], Blocks]] = {}  # request → prompt, blocks

    # --- scheduler

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        prompt = request.prompt_token_ids
        if not self._loads or not self._path(_name(prompt), FIRST).exists():
            return 0, False
        count = max(len(prompt) - 1 - num_computed_tokens, 0)
        return count, self._waits and count > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if num_external_tokens and self._waits:
            name = _name(request.prompt_token_ids)
            self._awaited.loads.append((name, [list(ids) for ids in blocks.get_block_ids()]))
            self._awaited.awaited.add(request.request_id)
        elif num_external_tokens:
            self._to_load.add(request.request_id)

    def build_connector_meta(self, scheduler_output: Any) -> Moves:
        moves, self._awaited = self._awaited, Moves()
        scheduled = scheduler_output.num_scheduled_tokens
        for request in scheduler_output.scheduled_new_reqs:
            prompt, blocks = request.prompt_token_ids, [list(ids) for ids in request.block_ids]
            if request.req_id in self._to_load:
                self._to_load.remove(request.req_id)
                moves.loads.append((_name(prompt), blocks))
            if self._saves:
                self._unsaved[request.req_id] = (prompt, blocks)
                self._save(moves, request.req_id, request.num_computed_tokens + scheduled[request.req_id])
        cached = scheduler_output.scheduled_cached_reqs
        for request_id, computed, new in zip(
            cached.req_ids, cached.num_computed_tokens, cached.new_block_ids, strict=True
        ):
            if request_id in self._unsaved:
                for blocks, more in zip(self._unsaved[request_id][1], new or (), strict=False):
                    blocks.extend(more)
                self._save(moves, request_id, computed + scheduled[request_id])
        return moves

    def _save(self, moves: Moves, request_id: str, num_computed: int) -> None:
        prompt, blocks = self._unsaved[request_id]
        if num_computed >= len(prompt):
            moves.saves.append((_name(prompt), blocks))
            del self._unsaved[request_id]

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        """Lets the scheduler have the blocks back: what was to be saved, has been."""
        return False, None

    # --- workers

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._caches = kv_caches

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._arrived |= self._loaded
        self._loaded = self._moves().awaited
        for name, blocks in self._moves().loads:
            saved_blocks, saved = torch.load(self._path(name, _part()))
            for layer, parts in self._parts():
                group = self._group_of[layer]
                pairs = enumerate(zip(saved_blocks[group], blocks[group], strict=False))
                moved = [(at, own) for at, (theirs, own) in pairs if _NOBODY not in (theirs, own)]
                for part, values in zip(parts, saved[layer], strict=True):
                    for at, own in moved:
                        part[own] = values[at].to(part.device)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Tells whose caches came in earlier steps."""
        arrived, self._arrived = self._arrived, set()
        return None, arrived

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Everything was loaded in `start_load_kv`, in the order of the stream."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is saved layer by layer."""

    def wait_for_save(self) -> None:
        for name, blocks in self._moves().saves:
            saved = {
                layer: [part[blocks[self._group_of[layer]]].cpu() for part in parts]
                for layer, parts in self._parts()
            }
            torch.save((blocks, saved), self._path(name, _part()))

    def _moves(self) -> Moves:
        moves = self._get_connector_metadata()
        assert isinstance(moves, Moves)
        return moves

    def _parts(self) -> list[tuple[str, tuple[torch.Tensor, ...]]]:
        """Returns each layer's tensors, whose first dimension is the block."""
        return [
            (layer, tuple(cache) if isinstance(cache, (tuple, list)) else (cache,))
            for layer, cache in self._caches.items()
        ]

    def _path(self, name: str, part: str) -> Path:
        return self._folder / f"{name}-{part}.pt"


def _part() -> str:
    """Returns the name of this rank's part of a cache."""
    return f"{get_pp_group().rank_in_group}-{get_tp_group().rank_in_group}"


def _name(prompt: list[int]) -> str:
    return hashlib.sha256(repr(list(prompt)).encode()).hexdigest()[:16]
