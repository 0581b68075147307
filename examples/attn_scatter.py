# SPDX-License-Identifier: Apache-2.0
"""Two tensor-parallel ranks run norms and attention's first projection on half of the rows each.

After `source scripts/env.sh`: python examples/attn_scatter.py [MODEL]
"""

from __future__ import annotations

import sys

from vllm import LLM, SamplingParams

# one long prompt: the steps that prefill it have enough rows, those that decode have not
PROMPTS = ["def main():\n    return 0\n\n\n" * 20, "import os\n"]


def main(model: str) -> None:
    """Generates with `model` on two ranks, then reads what each rank scattered and sent."""
    llm = LLM(
        model,
        tensor_parallel_size=2,
        max_model_len=512,
        kv_cache_memory_bytes=64 << 20,
        enforce_eager=True,
        # a real model needs no `min_tokens`: its threshold follows from the sizes of its layers
        additional_config={"ascend_ext": {"attn_scatter": {"enabled": True, "full": True, "min_tokens": 64}}},
    )
    llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})  # what warm-up has left
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True), use_tqdm=False)

    for output in outputs:
        print(f"{len(output.prompt_token_ids)} prompt tokens -> {output.outputs[0].token_ids}")
    for report in llm.collective_rpc("ascend_ext_report"):
        scatter, traffic = report["attn_scatter"], report["traffic"]["attn_scatter"]
        print(
            f"rank {report['rank']}: {scatter['num_scattered']} passes scattered, {scatter['num_plain']} plain "
            f"(fewer than {scatter['min_tokens']} rows), {scatter['predicted_bytes']} bytes predicted, "
            f"{sum(operation['bytes'] for operation in traffic.values())} bytes sent"
        )


if __name__ == "__main__":  # vLLM starts its engine and its workers in processes of their own
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/assets/tiny-deepseek")
