# SPDX-License-Identifier: Apache-2.0
"""Two data-parallel replicas exchange their rows for the experts by plan; prints what each plan sent.

The ranks are forks of this process, as torchrun would start them. A server needs two options more than without us:
    vllm serve MODEL --data-parallel-size 2 --enable-expert-parallel --additional-config '{"ascend_ext": {...}}'

After `source scripts/env.sh`: python examples/dp_gather.py [MODEL]
"""

from __future__ import annotations

import sys

from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout
from vllm_ascend_ext.tools.preload import preload

# the first replica gets seven of them, so that the replicas' rows are uneven
PROMPTS = ["def main():\n    ", "import os\n", "class Reader:\n", "for name in names:\n"] * 2


def main(model: str) -> None:
    """Generates with two replicas, which gather in the way predicted fastest, and with one rank without us."""
    preload()  # imports vLLM once, for all ranks
    section = {"dp_gather": {"enabled": True, "rule": "cost", "machine": "h20"}}
    case = EngineCase(model, Layout(dp=2), expert_parallel=True, ascend_ext=section)
    result = run_engine(case, PROMPTS, max_tokens=16, deadline_s=300, split=[7, 1])
    plain = run_engine(EngineCase(model), PROMPTS, max_tokens=16, deadline_s=300)

    for rank in result.ranks:
        for mode, counts in rank.report["dp_gather"]["modes"].items():
            print(
                f"rank {rank.report['rank']}: {mode} in {counts['num_layers']} layers, "
                f"{counts['num_rows']} rows, {counts['num_pad_rows']} of them padding, "
                f"{counts['planned_bytes']} bytes planned"
            )
        sent = sum(
            operation["bytes"]
            for group, operations in rank.report["traffic"].items()
            if group.startswith("DP gather over")
            for operation in operations.values()
        )
        print(f"rank {rank.report['rank']}: {sent} bytes sent")
    same = sum(ours == theirs for ours, theirs in zip(result.token_ids, plain.token_ids, strict=True))
    print(f"{same} of {len(PROMPTS)} completions equal those of a single rank")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/assets/tiny-deepseek")
