# SPDX-License-Identifier: Apache-2.0
"""Serves under mixed load and random kills for as long as one likes, and sums up.

python -m tests.soak --minutes 60
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Soak

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--mean-life", type=float, default=480, help="seconds from a server's start to a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=str(ROOT / "tests" / "assets" / "tiny-deepseek"))
    parser.add_argument("--folder", type=Path, help="for the servers' output and the frames; kept")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(
        arguments.model, folder, minutes=arguments.minutes, mean_life_s=arguments.mean_life, seed=arguments.seed
    )
    summary = soak.run()
    print(summary)
    for fault in summary.faults[:20]:
        print(f"fault: {fault[:2000]}")
    if len(summary.faults) > 20:
        print(f"all {len(summary.faults)} faults: {folder / 'faults.txt'}")
    sys.exit(bool(summary.faults))


if __name__ == "__main__":
    main()
