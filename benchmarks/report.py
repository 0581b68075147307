# SPDX-License-Identifier: Apache-2.0
"""Prints what every benchmark prints: the machine, versions and command, and values as median and middle half."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def print_machine(*modules: Any, accelerator: str = "", setting: str = "") -> None:
    """Prints the machine. modules: whose versions matter. accelerator, setting: what else the machine and the
    versions say."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), "?")
    machine = [f"machine: {cpu}", f"{os.cpu_count()} cores", f"load {os.getloadavg()[0]:.2f}"]
    print(", ".join([*machine, accelerator] if accelerator else machine))
    versions = [f"{module.__name__} {module.__version__}" for module in modules]
    print(", ".join([f"versions: python {platform.python_version()}", *versions]) + (setting and f"; {setting}"))
    print(f"commit: {commit or 'unknown'}; command: {' '.join(sys.argv)}")


def spread(values: Sequence[float], form: str, width: str = "") -> str:
    """Returns the median, at least `width` wide, and the middle half of the values. One value alone has
    neither."""
    low, middle, high = statistics.quantiles(values if len(values) > 1 else [*values] * 2, n=4)
    return f"{middle:{width}{form}} [{low:{form}}, {high:{form}}]"
