# SPDX-License-Identifier: Apache-2.0
"""Implements collectives over one process group: counted, with a deadline, and with errors that name ranks.

Shapes: R = ranks of the group, T = rows of this rank. Rows are the first dimension; the others must be the
same on all ranks. All ranks call the same operations in the same order with the same `sizes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from vllm_ascend_ext.collectives import sent_bytes
from vllm_ascend_ext.collectives.calls import CollectiveError, GroupCalls, Traffic
from vllm_ascend_ext.collectives.rows import packed, padded, parts, unpacked

__all__ = ["CollectiveError", "Collectives", "Traffic"]

# torch 2.13 renamed both; the old names warn there
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Collectives(GroupCalls):
    """Runs the collectives of one process group. The arguments are those of `GroupCalls`."""

    def all_reduce_(self, x: torch.Tensor) -> None:
        """Replaces `x` (the same shape on all ranks) by its sum over the ranks.

        Raises:
            CollectiveError: as all operations here.
        """
        if not x.is_contiguous():
            dense = x.contiguous()
            self.all_reduce_(dense)
            x.copy_(dense)
            return
        self.begin_all_reduce_(x)()

    def begin_all_reduce_(self, x: torch.Tensor) -> Callable[[], None]:
        """Starts `all_reduce_` of a contiguous `x`; call the result, once, to wait for it.

        Raises:
            ValueError: `x` is not contiguous: a backend may reduce other memory than the slice, and say nothing.
        """
        self._check_dense("begin_all_reduce_", x)
        sent = sent_bytes.all_reduce(x.nbytes, self.num_ranks)
        self._count("all_reduce_", x, sent)
        if self.num_ranks == 1:
            return lambda: None
        return self._begin("all_reduce_", sent, lambda: dist.all_reduce(x, group=self.group, async_op=True))

    def broadcast_(self, x: torch.Tensor, source: int) -> None:
        """Replaces `x` (contiguous, the same shape on all ranks) by that of group rank `source`.

        Raises:
            ValueError: `source` is no rank of the group, or `x` is not contiguous.
        """
        if not 0 <= source < self.num_ranks:
            raise ValueError(f"broadcast_ of {self.name}: source {source} of {self.num_ranks}")
        self._check_dense("broadcast_", x)
        sent = x.nbytes if self.rank == source else 0
        self._count("broadcast_", x, sent)
        if self.num_ranks > 1 and x.numel():
            self._run(
                "broadcast_",
                sent,
                lambda: dist.broadcast(x, group=self.group, group_src=source, async_op=True),
            )

    def all_gather_into(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Writes the `x` of all ranks, ``[T, ...]`` each, into `out`, ``[R * T, ...]``, both contiguous.

        Raises:
            ValueError: `out` has another shape, or one of the two is not contiguous.
        """
        self._check_rows("all_gather_into", "out", out, x)
        self._all_gather("all_gather_into", out, x)

    def all_gather_rows(self, x: torch.Tensor, sizes: Sequence[int] | None) -> torch.Tensor:
        """Gathers the rows of all ranks, in the order of the ranks.

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
        """Gathers as `all_gather_rows` does, but only group rank `dst` receives; the others return None."""
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
                lambda: dist.gather(rows, out_parts, group=self.group, group_dst=dst, async_op=True),
            )
        return None if out is None else packed(out, sizes, longest)

    def reduce_scatter_into(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Writes this rank's rows of the sum of `x`, ``[R * T, ...]``, into `out`, ``[T, ...]``.

        Raises:
            ValueError: `x` has another shape, or one of the two is not contiguous.
        """
        self._check_rows("reduce_scatter_into", "x", x, out)
        self._reduce_scatter("reduce_scatter_into", out, x)

    def reduce_scatter_rows(self, x: torch.Tensor, sizes: Sequence[int] | None) -> torch.Tensor:
        """Returns this rank's rows of the sum of `x` over the ranks.

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

    def all_gather_variable(self, x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Gathers as `all_gather_rows` does, but every rank sends only the rows that it has.

        It is an all-to-all with uneven parts, which takes one part for each rank: beside the result it holds R
        copies of `x` until it is done, ``R * x.nbytes`` bytes.

        Returns:
            ``[sum(sizes), ...]``.

        Raises:
            ValueError: `sizes` is not R numbers, or not those of `x`.
        """
        sizes = self._check_sizes(sizes, x, lambda sizes: sizes[self.rank])
        sent = sent_bytes.all_gather_variable(x.nbytes, self.num_ranks)
        self._count("all_gather_variable", x, sent)
        out = x.new_empty(sum(sizes), *x.shape[1:])
        copies = x.repeat(self.num_ranks, *[1] * (x.dim() - 1))
        self._all_to_all("all_gather_variable", sent, out, copies, sizes, [x.shape[0]] * self.num_ranks)
        return out

    def reduce_scatter_variable(self, x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Reduces as `reduce_scatter_rows` does, but every rank receives only the rows that it keeps, from each
        rank, and adds them up in the order of the ranks.

        Returns:
            ``[sizes[rank], ...]``.

        Raises:
            ValueError: `sizes` is not R numbers, or does not sum to the rows of `x`.
        """
        sizes = self._check_sizes(sizes, x, sum)
        own = sizes[self.rank]
        row_bytes = x.nbytes // x.shape[0] if x.shape[0] else 0
        sent = sent_bytes.reduce_scatter_variable(x.nbytes, own * row_bytes)
        self._count("reduce_scatter_variable", x, sent)
        out = x.new_empty(self.num_ranks * own, *x.shape[1:])
        self._all_to_all("reduce_scatter_variable", sent, out, x.contiguous(), [own] * self.num_ranks, sizes)
        return out.view(self.num_ranks, own, *x.shape[1:]).sum(dim=0, dtype=x.dtype)

    def _all_to_all(
        self, op: str, sent: int, out: torch.Tensor, x: torch.Tensor, received: list[int], given: list[int]
    ) -> None:
        """Sends part r of `x` to rank r. All ranks call it, also one that neither gives nor receives rows."""
        if self.num_ranks == 1:
            out.copy_(x)
        elif any(received) or any(given):
            self._run(
                op,
                sent,
                lambda: dist.all_to_all_single(out, x, received, given, group=self.group, async_op=True),
            )

    def _all_gather(self, op: str, out: torch.Tensor, x: torch.Tensor) -> None:
        sent = sent_bytes.all_gather(x.nbytes, self.num_ranks)
        self._count(op, x, sent)
        if self.num_ranks == 1:
            out.copy_(x)
        elif out.numel():
            dense = x.contiguous()
            self._run(op, sent, lambda: _all_gather(out, dense, group=self.group, async_op=True))

    def _reduce_scatter(self, op: str, out: torch.Tensor, x: torch.Tensor) -> None:
        sent = sent_bytes.reduce_scatter(x.nbytes, self.num_ranks)
        self._count(op, x, sent)
        if self.num_ranks == 1:
            out.copy_(x)
        elif x.numel() and self._stream_ordered:
            dense = x.contiguous()
            self._run(op, sent, lambda: _reduce_scatter(out, dense, group=self.group, async_op=True))
        elif x.numel():
            # what torch does for Gloo, whose own reduce-scatter waits as long as its group may, whatever deadline
            # its wait is given
            total = x.clone(memory_format=torch.contiguous_format)
            self._run(op, sent, lambda: dist.all_reduce(total, group=self.group, async_op=True))
            out.copy_(total[self.rank * out.shape[0] :][: out.shape[0]])

    def _check_rows(self, op: str, label: str, whole: torch.Tensor, part: torch.Tensor) -> None:
        expected = [self.num_ranks * part.shape[0], *part.shape[1:]]
        if list(whole.shape) != expected:
            raise ValueError(
                f"{label} has shape {list(whole.shape)}; {self.name} with {self.num_ranks} ranks needs {expected}"
            )
        self._check_dense(op, whole, part)

    def _check_dense(self, op: str, *tensors: torch.Tensor) -> None:
        """Refuses tensors whose memory is not one piece: a backend sends or fills the piece."""
        for x in tensors:
            if not x.is_contiguous():
                raise ValueError(
                    f"{op} of {self.name} needs contiguous tensors, not strides {list(x.stride())} of shape "
                    f"{list(x.shape)}"
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
