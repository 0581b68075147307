# SPDX-License-Identifier: Apache-2.0
"""Sends two steps of MTP output from one process to another with the operators that FastDeploy's programs call.

`python examples/fastdeploy_output.py` needs no model, no server and no accelerator.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress

import torch

import vllm_ascend_ext.ops  # registers torch.ops.ascend_ext.speculate_*
from vllm_ascend_ext.mtp_output import fastdeploy
from vllm_ascend_ext.mtp_output.errors import ChannelClosedError
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

REQUESTS = ["first", "second"]
DRAFTS = 2  # a step brings at most this many tokens and the model's own
STEPS = [  # tokens of each request, how many of them are accepted, whether it has finished
    ([[11, 12, 13], [21, -1, -1]], [3, 1], [0, 0]),
    ([[14, 15, -1], [-1, -1, -1]], [2, fastdeploy.PREEMPTED], [1, 0]),
]


def save(instance: int) -> None:
    """Is the engine's process: saves each step; `rank_id` is its rank in the tensor-parallel group."""
    size = RingSize.for_engine(len(REQUESTS), DRAFTS)
    channel = fastdeploy.open_output_sender(OutputSender(instance, 0, size))
    for step, arrays in enumerate(STEPS):
        tensors = [torch.tensor(array, dtype=torch.int32) for array in arrays]
        torch.ops.ascend_ext.speculate_save_output(*tensors, channel, step, REQUESTS, rank_id=0)
    fastdeploy.close_output_channel(channel)  # what is unread stays for the reader


def read(instance: int) -> None:
    """Is the front end's process: reads each step into tensors of its own."""
    channel = fastdeploy.open_output_receiver(OutputReceiver(instance, 0, timeout_s=60.0))
    tokens = torch.empty(len(REQUESTS), DRAFTS + 1, dtype=torch.int64)
    counts = torch.empty(len(REQUESTS), dtype=torch.int32)
    with suppress(ChannelClosedError):  # the writer's end: all is acknowledged by then, and the ring is gone
        while True:
            batch = vllm_ascend_ext.ops.speculate_get_output(tokens, counts, channel, 60.0)
            frame = fastdeploy.received_frame(channel)
            for row, name in enumerate(frame.sections[0].request_ids[:batch]):
                count = int(counts[row])
                print(f"step {frame.step}: {name}: count {count}, tokens {tokens[row, : max(count, 0)].tolist()}")
    fastdeploy.close_output_channel(channel)


if __name__ == "__main__":
    instance = os.getpid()  # any number that both ends know
    writer = multiprocessing.get_context("spawn").Process(target=save, args=(instance,))
    writer.start()
    read(instance)
    writer.join()
