# SPDX-License-Identifier: Apache-2.0
"""Counts the tokens that each expert gets and prints how unevenly they are spread.

After `source scripts/env.sh`: python examples/eplb_load.py [MODEL]
"""

from __future__ import annotations

import sys

import torch
from vllm import LLM, SamplingParams

from vllm_ascend_ext.eplb_load.balance import expert_imbalance, rank_imbalance

PROMPTS = ["def main():\n    ", "import os\n", "class Reader:\n", "for name in names:\n"]
NUM_RANKS = 4  # what the same load would mean for this many ranks


def main(model: str) -> None:
    """Generates with `model`, then reads the counts of the engine's workers."""
    llm = LLM(
        model,
        max_model_len=512,
        kv_cache_memory_bytes=64 << 20,
        additional_config={"ascend_ext": {"eplb_load": {"enabled": True, "interval": 10}}},
    )
    llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})  # what warm-up has left
    outputs = llm.generate(
        PROMPTS, SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True), use_tqdm=False
    )
    num_generated = sum(len(output.outputs[0].token_ids) for output in outputs)

    reports = llm.collective_rpc("ascend_ext_report")  # one a worker; the sum over all is everything
    models = [report["eplb_load"]["load"][0] for report in reports]  # [0]: the target, [1] would be its MTP layers
    load_LE = sum(torch.tensor(model["load_LE"]) for model in models)
    experts, ranks = expert_imbalance(load_LE), rank_imbalance(load_LE, NUM_RANKS)

    print(f"{num_generated} tokens generated, {sum(model['num_tokens'] for model in models)} routed")
    for index, name in enumerate(models[0]["layers"]):
        print(
            f"{name}: {experts.total[index]} choices of {models[0]['top_k']} experts a token, "
            f"busiest expert {experts.max_over_mean[index]:.2f} times the mean, "
            f"busiest of {NUM_RANKS} ranks {ranks.max_over_mean[index]:.2f} times"
        )


if __name__ == "__main__":  # vLLM starts its engine in a process of its own
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/assets/tiny-deepseek")
