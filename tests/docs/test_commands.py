# SPDX-License-Identifier: Apache-2.0
"""Every command of the README and the documentation runs here, or says which hardware it needs.

The comment before a fence says how: `<!-- runs -->` quickly, alone; `<!-- runs: engine -->` with an engine;
`<!-- runs: slow -->` among the slow tests; `<!-- runs: emulator -->` among those of the emulator;
`<!-- runs: server -->` as a server for the fences marked `<!-- runs: client -->` that follow it on the page;
`<!-- runs: ci -->` as a step of CI itself; `<!-- needs: npu -->` not without that hardware, `<!-- needs: an
environment -->` in one of the reader's own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Fence, fences, name_of, pages, prose
from tests.support.server import free_port

RUNS = {"runs", "runs: engine", "runs: slow", "runs: server", "runs: client", "runs: emulator", "runs: ci"}
NEEDS = {"needs: npu", "needs: cuda", "needs: npu pool", "needs: two hosts", "needs: an environment"}
COMMANDS, OTHERS = {"bash", "python"}, {"text", "json", "yaml"}
HOST_PORT = "127.0.0.1:8000"
_QUICK_S, _ENGINE_S, _SLOW_S = 120, 600, 1800  # bounds, not measurements
_LOST_PORT = re.compile(r"EADDRINUSE|TCPStore::ping")
MARKERS = {
    "runs": [],
    "runs: engine": [pytest.mark.engine],
    "runs: slow": [pytest.mark.engine, pytest.mark.slow],
    "runs: emulator": [pytest.mark.emulator],
}
BOUNDS_S = {"runs": _QUICK_S, "runs: engine": _ENGINE_S, "runs: slow": _SLOW_S, "runs: emulator": _SLOW_S}
EMULATOR = ("EMULATOR_", "ASCEND_", "LD_LIBRARY_PATH", "TASK_QUEUE_ENABLE", "TORCH_DEVICE")


def all_fences() -> list[Fence]:
    return [fence for page in pages() for fence in fences(name_of(page), page.read_text(encoding="utf-8"))]


def problem(fence: Fence) -> str | None:
    """Returns what is wrong with a fence's language or mark, or None."""
    if fence.language not in COMMANDS | OTHERS:
        return f"language {fence.language!r}: one of {sorted(COMMANDS | OTHERS)}"
    if fence.language in OTHERS:
        return (
            "a command in a text: make it a bash fence" if re.search(r"^\$ ", fence.text, re.MULTILINE) else None
        )
    return None if fence.mark in RUNS | NEEDS else f"mark {fence.mark!r}: one of {sorted(RUNS | NEEDS)}"


def runnable() -> list[object]:
    """Returns the fences that run alone, each text once, with the markers of what they need."""
    by_text = {(fence.language, fence.text): fence for fence in reversed(all_fences()) if fence.mark in MARKERS}
    return [pytest.param(fence, id=str(fence), marks=MARKERS[fence.mark]) for fence in by_text.values()]


def served() -> list[object]:
    """Returns (server, clients): fences of one server command on all pages go to one server."""
    clients: dict[str, list[Fence]] = {}
    servers: dict[str, Fence] = {}
    for page in pages():
        server = ""
        for fence in fences(name_of(page), page.read_text(encoding="utf-8")):
            if fence.mark == "runs: server":
                server = fence.text
                servers.setdefault(server, fence)
                clients.setdefault(server, [])
            elif fence.mark == "runs: client":
                assert server, f"{fence}: a client without a server before it"
                if fence.text not in [client.text for client in clients[server]]:
                    clients[server].append(fence)
    return [pytest.param(servers[text], clients[text], id=str(servers[text])) for text in servers]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout, whose out/ is its own."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "out"):
            (folder / entry.name).symlink_to(entry)
    return folder


def environment() -> dict[str, str]:
    """Returns this process's environment with its Python first, and without what the emulator's launcher adds."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(EMULATOR)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**plain, "PATH": path, "PYTHONPATH": str(ROOT)}


def command_of(fence: Fence) -> list[str]:
    if fence.language == "python":
        return [sys.executable, "-c", fence.text]
    return [shutil.which("bash") or "/bin/bash", "-euo", "pipefail", "-c", fence.text]


def shown(fence: Fence) -> list[str]:
    """Returns the lines that the page shows as what a command prints: a text right after it."""
    after = fence.line + fence.text.count("\n") + 3
    found = fences(fence.page, (ROOT / fence.page).read_text(encoding="utf-8"))
    texts = [other.text for other in found if other.language == "text" and other.line == after]
    return [line for text in texts for line in text.splitlines()]


def run(fence: Fence, folder: Path, bound_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_of(fence), cwd=folder, env=environment(), capture_output=True, text=True, timeout=bound_s
    )


@pytest.mark.parametrize("fence", all_fences(), ids=str)
def test_fence_is_marked(fence: Fence) -> None:
    assert problem(fence) is None


def other_fences(text: str) -> list[int]:
    """Returns the lines that open a fence of a form which nothing here reads: `~~~`, a language with a title."""
    return [number for number, line in prose(text) if re.match(r"\s*>?\s*(```|~~~)", line)]


def test_every_fence_is_of_the_form_that_is_read() -> None:
    assert {name_of(page): found for page in pages() if (found := other_fences(page.read_text("utf-8")))} == {}
    assert other_fences("~~~bash\nls\n~~~\n") and other_fences("```bash title='x'\nls\n") == [1]


@pytest.mark.parametrize("fence", runnable())
def test_command_runs(fence: Fence, checkout: Path) -> None:
    result = run(fence, checkout, BOUNDS_S[fence.mark])
    assert result.returncode == 0, f"{fence}\n{result.stdout}\n{result.stderr}"
    missing = [line for line in shown(fence) if line not in result.stdout.splitlines()]
    assert not missing, f"{fence} does not print\n{missing}\nbut\n{result.stdout}"


@pytest.mark.parametrize("fence", [f for f in all_fences() if f.mark == "runs: ci"], ids=str)
def test_command_is_a_step_of_ci(fence: Fence) -> None:
    steps = [ROOT / ".ci" / "run", *(ROOT / "scripts").glob("*.sh"), *(ROOT / ".github").rglob("*.yml")]
    texts = "\n".join(step.read_text(encoding="utf-8") for step in steps)
    for line in fence.text.splitlines():
        command = line.partition("#")[0].strip()
        if command:
            script = command.split()[0]
            assert script.startswith("./") and f"/{Path(script).name}" in texts, (
                f"{fence}: CI never runs {command}"
            )


def _moved(fence: Fence, address: str) -> Fence:
    """Returns the fence with another address than the default one, which may be taken."""
    port = address.rpartition(":")[2]
    text = fence.text.replace(HOST_PORT, address)
    if fence.mark == "runs: server":
        text = re.sub(r"\bvllm serve (\S+)", rf"exec vllm serve \1 --host 127.0.0.1 --port {port}", text, count=1)
    return Fence(fence.page, fence.line, fence.language, fence.mark, text)


@pytest.fixture
def server(request: pytest.FixtureRequest, checkout: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, folder) of the server that a fence starts, in a session of its own, which ends with the test."""
    fence: Fence = request.param
    for log in (tmp_path / "first.log", tmp_path / "second.log"):
        address = f"127.0.0.1:{free_port()}"
        process = _start(_moved(fence, address), checkout, log)
        try:
            _wait_until_healthy(process, address, log)
        except AssertionError:
            _end(process)
            # vLLM finds ports for its groups by binding and letting go of them: a program beside may take one
            if log.name == "first.log" and _LOST_PORT.search(log.read_text(errors="replace")):
                continue
            raise
        try:
            yield address, checkout
        finally:
            _end(process)
        return


def _start(fence: Fence, checkout: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command_of(fence),
            cwd=checkout,
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_healthy(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _ENGINE_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(
        "the server does not answer\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    )


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(("server", "clients"), served(), indirect=["server"])
def test_server_and_its_clients(server: tuple[str, Path], clients: list[Fence]) -> None:
    address, folder = server
    for client in clients:
        result = run(_moved(client, address), folder, _ENGINE_S)
        assert result.returncode == 0, f"{client}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize(
    "fence",
    [
        Fence("p", 1, "bash", "", "ls\n"),
        Fence("p", 1, "python", "runs: never", "pass\n"),
        Fence("p", 1, "", "", "a\n"),
        Fence("p", 1, "text", "", "$ ls\n"),
    ],
    ids=["no mark", "unknown mark", "no language", "command in a text"],
)
def test_planted_fence_is_found(fence: Fence) -> None:
    assert problem(fence)


@pytest.mark.parametrize("text", ["false\n", "false | true\n", "echo $UNSET_NAME\n", "no_such_command\n"])
def test_planted_failure_is_found(text: str, checkout: Path) -> None:
    assert run(Fence("p", 1, "bash", "runs", text), checkout, _QUICK_S).returncode != 0
