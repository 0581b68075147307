# SPDX-License-Identifier: Apache-2.0
"""Each check of scripts/checks.py finds what it is for, planted into a small checkout with our configuration."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts import checks

CONFIGURATION = ("pyproject.toml", ".clang-format", ".shellcheckrc", ".gitignore", "scripts/structure.py")
FINE = {
    "vllm_ascend_ext/__init__.py": "X: int = 1\n",
    "emulator/__init__.py": "",
    "csrc_channel/module.cpp": "int main() { return 0; }\n",
    "scripts/env.sh": '# shellcheck shell=bash\nroot="$PWD"\nexport PATH="$root:$PATH"\n',
    "scripts/run.sh": '#!/usr/bin/env bash\nset -e\nsource "$(dirname "${BASH_SOURCE[0]}")/env.sh"\ncd "$root"\n',
    "README.md": "CANN's CopyIn\n",
}
PLANTED = {  # check -> file, text
    "ruff": ("vllm_ascend_ext/fresh.py", "import os\n"),
    "ruff-format": ("vllm_ascend_ext/fresh.py", "x = 'text'\n"),
    "clang-format": ("csrc_channel/fresh.cpp", "int  main() { return 0; }\n"),
    "shellcheck": (".ci/run", "#!/usr/bin/env bash\nrm $1\n"),
    "codespell": ("docs/fresh.md", "recieved tokens\n"),  # codespell:ignore recieved
    "structure": ("vllm_ascend_ext/fresh.py", '"""A file that the page does not know."""\n'),
    "mypy": ("vllm_ascend_ext/fresh.py", 'x: int = "text"\n'),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that passes every check."""
    root = tmp_path_factory.mktemp("checkout")
    for name, text in FINE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in CONFIGURATION:
        shutil.copy(checks.ROOT / name, root / name)
    (root / "docs").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run([sys.executable, "scripts/structure.py"], cwd=root, check=True)
    assert checks.run_checks(list(checks.CHECKS), root) == []
    return root


def test_every_check_is_planted() -> None:
    assert set(PLANTED) == set(checks.CHECKS) and set(checks.FILES) < set(checks.CHECKS)


@pytest.mark.parametrize("check", PLANTED)
def test_planted_fault_is_found(checkout: Path, check: str, capfd: pytest.CaptureFixture[str]) -> None:
    name, text = PLANTED[check]
    file = checkout / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    try:
        assert checks.run_checks([check], checkout) == [check]
        said = "".join(capfd.readouterr())
        assert (file.name if check != "structure" else "structure.md") in said
    finally:
        file.unlink()


def test_a_failed_check_fails_the_command(tmp_path: Path) -> None:
    """Through the command line, beside a check that passes."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/checks.py", "pyproject.toml"):
        shutil.copy(checks.ROOT / name, tmp_path / name)
    (tmp_path / "fresh.py").write_text("import os\n")
    command = [sys.executable, "scripts/checks.py", "ruff-format", "ruff"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "failed: ruff; `python scripts/checks.py ruff` repeats it" in done.stderr


def test_the_hooks_are_the_checks() -> None:
    """pre-commit runs every check by its name, from the project's own environment."""
    (repository,) = yaml.safe_load((checks.ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) == set(checks.CHECKS)
    for name, hook in hooks.items():
        assert hook["entry"] == f".venv/bin/python scripts/checks.py {name}" and hook["language"] == "system"


def test_pre_commit_takes_the_configuration() -> None:
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config"], cwd=checks.ROOT, check=True)
