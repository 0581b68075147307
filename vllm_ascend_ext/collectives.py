# SPDX-License-Identifier: Apache-2.0
"""Collectives over one process group: counted, with a deadline, and with errors that name ranks.

Shapes: R = ranks of the group, T = rows of this rank. Rows are the first dimension; the others must be the
same on all ranks. All ranks call the same operations in the same order with the same `sizes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vllm_ascend_ext.ragged_rows import packed, padded, parts, unpacked
from vllm_ascend_ext.roll_call import RollCall, world_ranks

# torch 2.13 renamed both; the old names warn there
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

_LONGEST_SLICE_S = 1.0  # of a wait, after which a rank looks whether others failed
_ROLL_CALL_SLICES = 4


class CollectiveError(RuntimeError):
    """A collective failed or reached its deadline. The group cannot be used any more.

    Attributes:
        silent_ranks: world ranks that reported no failure of their own: dead, hanging, or not yet there.
    """

    def __init__(self, message: str, silent_ranks: tuple[int, ...]) -> None:
        super().__init__(message)
        self.silent_ranks = silent_ranks


@dataclass(slots=True)
class Traffic:
    """What this rank did with one operation.

    Attributes:
        rows: of its inputs, padding included.
        bytes: sent by this rank, by the ring algorithm's count: an all-gather sends the input to R - 1
            ranks, a reduce-scatter (R - 1) / R of its input, an all-reduce twice that.
    """

    calls: int = 0
    rows: int = 0
    bytes: int = 0


class Collectives:
    """The collectives of one process group.

    Args:
        group: the group; this process is in it.
        timeout_s: deadline of one operation. A failure is raised up to half of it, at most 4 s, later.
        name: of the group, the same on all its ranks, for errors.
        has_reduce_scatter: the backend has a reduce-scatter; otherwise an all-reduce stands in.
        stream_ordered: the backend (NCCL, HCCL) works in stream order. Waiting then only makes the current
            stream wait, so that it can be captured, and the deadline is the one the group was created with.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        timeout_s: float,
        name: str,
        *,
        has_reduce_scatter: bool = True,
        stream_ordered: bool = False,
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s={timeout_s} is not positive")
        self.name = name
        self.rank: int = group.rank()
        self.num_ranks: int = group.size()
        self.world_ranks = world_ranks(group)
        self._group = group
        self._timeout_s = timeout_s
        self._has_reduce_scatter = has_reduce_scatter
        self._stream_ordered = stream_ordered
        self._traffic: dict[str, Traffic] = {}
        self._failure: CollectiveError | None = None
        self._slice_s = min(_LONGEST_SLICE_S, timeout_s / 8)
        self._roll_call = RollCall(group, name)

    def traffic(self) -> dict[str, dict[str, int]]:
        """Operation → {"calls", "rows", "bytes"} since the last `reset_traffic`; see `Traffic`."""
        return {op: asdict(counts) for op, counts in self._traffic.items()}

    def reset_traffic(self) -> None:
        """Forgets all counts."""
        self._traffic.clear()

    def all_reduce_(self, x: torch.Tensor) -> None:
        """Replaces `x` (the same shape on all ranks) by its sum over the ranks.

        Raises:
            CollectiveError: as all operations here.
        """
        sent = 2 * (self.num_ranks - 1) * x.nbytes // self.num_ranks
        self._count("all_reduce_", x, sent)
        if self.num_ranks == 1:
            return
        dense = x.contiguous()
        self._run("all_reduce_", sent, lambda: dist.all_reduce(dense, group=self._group, async_op=True))
        if dense is not x:
            x.copy_(dense)

    def broadcast_(self, x: torch.Tensor, source: int) -> None:
        """Replaces `x` (contiguous, the same shape on all ranks) by that of group rank `source`.

        Raises:
            ValueError: `source` is no rank of the group, or `x` is not contiguous.
        """
        if not 0 <= source < self.num_ranks or not x.is_contiguous():
            raise ValueError(f"broadcast_ of {self.name}: source {source} of {self.num_ranks}, contiguous tensors")
        sent = x.nbytes if self.rank == source else 0
        self._count("broadcast_", x, sent)
        if self.num_ranks > 1 and x.numel():
            self._run(
                "broadcast_",
                sent,
                lambda: dist.broadcast(x, group=self._group, group_src=source, async_op=True),
            )

    def all_gather_into(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Writes the `x` of all ranks, ``[T, ...]`` each, into `out`, ``[R * T, ...]``, both contiguous.

        Raises:
            ValueError: `out` has another shape.
        """
        self._check_rows("out", out, x, self.num_ranks * x.shape[0])
        self._all_gather("all_gather_into", out, x)

    def all_gather_rows(self, x: torch.Tensor, sizes: Sequence[int] | None) -> torch.Tensor:
        """The rows of all ranks, in the order of the ranks.

        Args:
            x: ``[sizes[rank], ...]``.
            sizes: number of rows of each rank, zero allowed; None when all have as many as this one.

        Returns:
            ``[sum(sizes), ...]``.

        Raises:
            ValueError: `sizes` is not R numbers, or not those of `x`.
        """
        sizes = self._check_sizes(sizes, x, lambda sizes: sizes[self.rank])
        longest = max(sizes)
        out = x.new_empty(self.num_ranks * longest, *x.shape[1:])
        self._all_gather("all_gather_rows", out, padded(x, longest))
        return packed(out, sizes, longest)

    def gather_rows(self, x: torch.Tensor, sizes: Sequence[int] | None, dst: int) -> torch.Tensor | None:
        """As `all_gather_rows`, but only group rank `dst` receives; the others return None."""
        sizes = self._check_sizes(sizes, x, lambda sizes: sizes[self.rank])
        if not 0 <= dst < self.num_ranks:
            raise ValueError(f"dst={dst} is not a rank of {self.name}, which has {self.num_ranks}")
        longest, is_dst = max(sizes), self.rank == dst
        rows = padded(x, longest).contiguous()
        sent = 0 if is_dst else rows.nbytes
        self._count("gather_rows", rows, sent)
        out = x.new_empty(self.num_ranks * longest, *x.shape[1:]) if is_dst else None
        if self.num_ranks == 1:
            return rows.clone()
        if longest:
            out_parts = None if out is None else parts(out, longest)
            self._run(
                "gather_rows",
                sent,
                lambda: dist.gather(rows, out_parts, group=self._group, group_dst=dst, async_op=True),
            )
        return None if out is None else packed(out, sizes, longest)

    def reduce_scatter_into(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Writes this rank's rows of the sum of `x`, ``[R * T, ...]``, into `out`, ``[T, ...]``.

        Raises:
            ValueError: `x` has another shape.
        """
        self._check_rows("x", x, out, self.num_ranks * out.shape[0])
        self._reduce_scatter("reduce_scatter_into", out, x)

    def reduce_scatter_rows(self, x: torch.Tensor, sizes: Sequence[int] | None) -> torch.Tensor:
        """This rank's rows of the sum of `x` over the ranks.

        Args:
            x: ``[sum(sizes), ...]``.
            sizes: number of rows that each rank receives, zero allowed; None for equal parts.

        Returns:
            ``[sizes[rank], ...]``.

        Raises:
            ValueError: `sizes` is not R numbers, or does not sum to the rows of `x`.
        """
        if sizes is None:
            if x.shape[0] % self.num_ranks:
                raise ValueError(f"{x.shape[0]} rows are not {self.num_ranks} equal parts")
            sizes = [x.shape[0] // self.num_ranks] * self.num_ranks
        sizes = self._check_sizes(sizes, x, sum)
        longest = max(sizes)
        out = x.new_empty(longest, *x.shape[1:])
        self._reduce_scatter("reduce_scatter_rows", out, unpacked(x, sizes, longest))
        return out[: sizes[self.rank]]

    def _all_gather(self, op: str, out: torch.Tensor, x: torch.Tensor) -> None:
        sent = (self.num_ranks - 1) * x.nbytes
        self._count(op, x, sent)
        if self.num_ranks == 1:
            out.copy_(x)
        elif out.numel():
            dense = x.contiguous()
            self._run(op, sent, lambda: _all_gather(out, dense, group=self._group, async_op=True))

    def _reduce_scatter(self, op: str, out: torch.Tensor, x: torch.Tensor) -> None:
        steps = 1 if self._has_reduce_scatter else 2
        sent = steps * (self.num_ranks - 1) * x.nbytes // self.num_ranks
        self._count(op, x, sent)
        if self.num_ranks == 1:
            out.copy_(x)
        elif x.numel() and self._has_reduce_scatter:
            dense = x.contiguous()
            self._run(op, sent, lambda: _reduce_scatter(out, dense, group=self._group, async_op=True))
        elif x.numel():
            total = x.clone(memory_format=torch.contiguous_format)
            self._run(op, sent, lambda: dist.all_reduce(total, group=self._group, async_op=True))
            out.copy_(total[self.rank * out.shape[0] :][: out.shape[0]])

    def _count(self, op: str, x: torch.Tensor, sent: int) -> None:
        counts = self._traffic.setdefault(op, Traffic())
        counts.calls += 1
        counts.rows += x.shape[0] if x.dim() else 1
        counts.bytes += sent

    def _check_rows(self, label: str, whole: torch.Tensor, part: torch.Tensor, num_rows: int) -> None:
        expected = [num_rows, *part.shape[1:]]
        if list(whole.shape) != expected or not whole.is_contiguous() or not part.is_contiguous():
            raise ValueError(
                f"{label} has shape {list(whole.shape)}; {self.name} with {self.num_ranks} ranks needs "
                f"{expected}, and both tensors contiguous"
            )

    def _check_sizes(
        self, sizes: Sequence[int] | None, x: torch.Tensor, num_rows: Callable[[Sequence[int]], int]
    ) -> list[int]:
        sizes = [x.shape[0]] * self.num_ranks if sizes is None else list(sizes)
        if len(sizes) != self.num_ranks or min(sizes) < 0 or num_rows(sizes) != x.shape[0]:
            raise ValueError(
                f"{self.name}, rank {self.rank} of {self.num_ranks}: {x.shape[0]} rows do not fit {sizes}"
            )
        return sizes

    def _run(self, op: str, sent: int, start: Callable[[], Any]) -> None:
        """Starts one collective and waits for it."""
        if self._failure is not None:
            raise self._failure
        deadline = time.monotonic() + self._timeout_s
        try:
            work = start()
            if self._stream_ordered:
                work.wait()
            else:
                self._wait(work, deadline)
        except RuntimeError as cause:
            self._failure = self._failed(op, sent, cause)
            raise self._failure from cause

    def _wait(self, work: dist.Work, deadline: float) -> None:
        """Waits in slices, because a backend tells only the neighbours of a dead rank; see `RollCall`."""
        while True:
            remaining_s = max(deadline - time.monotonic(), 0.001)
            try:
                work.wait(timedelta(seconds=min(remaining_s, self._slice_s)))
                return
            except RuntimeError:
                if work.is_completed():
                    work.wait()  # raises what it failed with, unless it finished just now
                    return
                if time.monotonic() >= deadline:
                    raise RuntimeError(f"not finished within {self._timeout_s:g} s") from None
                if reported := self._roll_call.reported():
                    raise RuntimeError(f"it failed on world ranks {reported}") from None

    def _failed(self, op: str, sent: int, cause: RuntimeError) -> CollectiveError:
        silent = self._roll_call.report(wait_s=_ROLL_CALL_SLICES * self._slice_s)
        if silent is None:
            verdict = "the group's store cannot be reached to ask which ranks are alive"
        elif silent:
            verdict = f"world ranks {silent} are silent (dead, hanging, or not in this call)"
        else:
            verdict = "all ranks report a failure"
        return CollectiveError(
            f"{op} of group {self.name!r} failed on world rank {self.world_ranks[self.rank]} of "
            f"{list(self.world_ranks)}, {sent} bytes to send: {cause}; {verdict}",
            tuple(silent or ()),
        )
