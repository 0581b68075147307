# SPDX-License-Identifier: Apache-2.0
"""Another process reads the tokens that an engine with MTP accepts, step by step, from shared memory.

After `source scripts/env.sh`: python examples/mtp_output.py [MODEL]
"""

from __future__ import annotations

import multiprocessing
import os
import sys

from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, WriterGoneError
from vllm_ascend_ext.mtp_output.frames.section import RequestStatus, Source
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver

PROMPTS = ["def main():\n    ", "import os\n"]
INSTANCE = os.getpid()  # tells this engine's frames from those of others on the machine


def read_frames() -> None:
    """Prints the accepted tokens of each step until the engine ends. This process does not import vLLM."""
    receiver = OutputReceiver(INSTANCE, replica=0, timeout_s=600.0)  # waits for the engine to start
    try:
        while True:
            frame = receiver.receive(timeout_s=60.0)  # and acknowledges the frame before
            target = frame.section(Source.TARGET)
            for row, request in enumerate(target.request_ids):
                tokens = target.token_ids_BS[row, : target.num_accepted_B[row]].tolist()
                status = RequestStatus(target.status_B[row]).name
                print(f"step {frame.step}: request {request} {status} {tokens}", flush=True)
    except (ChannelClosedError, WriterGoneError):  # the engine has ended; all that it sent was received
        receiver.close()


def main(model: str) -> None:
    """Generates with `model`, two drafts a step, while another process reads."""
    reader = multiprocessing.Process(target=read_frames)
    reader.start()
    from vllm import LLM, SamplingParams  # after the fork: the reader stays small

    llm = LLM(
        model,
        max_model_len=512,
        kv_cache_memory_bytes=64 << 20,
        speculative_config={"method": "mtp", "num_speculative_tokens": 2},
        additional_config={"ascend_ext": {"mtp_output": {"enabled": True, "instance": INSTANCE}}},
    )
    outputs = llm.generate(
        PROMPTS, SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True), use_tqdm=False
    )
    for output in outputs:
        print(f"engine: request {output.request_id} {output.outputs[0].token_ids}", flush=True)
    llm.llm_engine.engine_core.shutdown()  # closes the ring, which ends the reader
    reader.join()
    sys.exit(reader.exitcode)


if __name__ == "__main__":  # vLLM starts its engine in a process of its own
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/assets/tiny-deepseek")
