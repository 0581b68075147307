# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of the sources: format, style, spelling, types and generated pages.

python scripts/checks.py             # all, as CI does
python scripts/checks.py ruff mypy   # these
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = {  # check -> which of git's files it reads; the others find theirs themselves
    "clang-format": ("*.cpp", "*.h"),
    "shellcheck": ("*.sh", ".ci/run"),
    "codespell": (".", ":!LICENSE", ":!tests/assets", ":!*.png"),
}
CHECKS = {
    "ruff": ("ruff", "check", "."),
    "ruff-format": ("ruff", "format", "--check", "."),
    "clang-format": ("clang-format", "--dry-run", "-Werror"),
    "shellcheck": ("shellcheck",),
    "codespell": ("codespell",),
    "structure": (sys.executable, "scripts/structure.py", "--check"),
    "mypy": ("mypy",),
}


def command_of(check: str, root: Path) -> list[str]:
    """Returns the command of `check` for the checkout `root`, with the files that it reads."""
    command = list(CHECKS[check])
    if patterns := FILES.get(check):
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
        names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
        command += sorted({name for name in names if name and (root / name).is_file()})
    return command


def run_checks(checks: list[str], root: Path = ROOT) -> list[str]:
    """Runs `checks`, whose output is shown, in the checkout `root`; returns the names of those that failed."""
    failed = []
    for check in checks:
        print(f"== {check}", flush=True)
        if subprocess.run(command_of(check, root), cwd=root).returncode:
            failed.append(check)
    return failed


def main() -> int:
    """Returns 1 when a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", choices=[*CHECKS, []], metavar="CHECK", help=", ".join(CHECKS))
    failed = run_checks(parser.parse_args().checks or list(CHECKS))
    if failed:
        again = f"python scripts/checks.py {' '.join(failed)}"
        print(f"failed: {', '.join(failed)}; `{again}` repeats it", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
