# SPDX-License-Identifier: Apache-2.0
"""A process owns an end of a ring for as long as it lives, as the kernel says, in whatever PID namespace it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.mtp_output.ring.rings import BACKENDS, SIZE, backend, new_instance, own_folder, random_section
from vllm_ascend_ext.mtp_output.errors import ChannelInUseError, WriterGoneError
from vllm_ascend_ext.mtp_output.frames.frame import Source
from vllm_ascend_ext.mtp_output.receiver import OutputObserver, OutputReceiver
from vllm_ascend_ext.mtp_output.ring.file import Word
from vllm_ascend_ext.mtp_output.ring.folder import clear_dead_rings, open_ring, ring_path
from vllm_ascend_ext.mtp_output.sender import OutputSender

SECTION = random_section(np.random.default_rng(0), Source.TARGET, 4)
NAMESPACE = ("unshare", "--pid", "--mount-proc", "--fork")
END_S = 20.0
# one end of a ring in a process of its own: says that it has it, and ends without cleaning up
OWNER = """
import os, sys
from pathlib import Path
from tests.mtp_output.ring import rings
rings.ring_folder.SHARED_MEMORY = Path(sys.argv[1])
from vllm_ascend_ext.mtp_output.errors import ChannelInUseError
of, instance = rings.backend(sys.argv[2]), int(sys.argv[4])
try:
    if sys.argv[3] == "sender":
        end = rings.OutputSender(instance, 0, rings.SIZE, backend=of)
        print(os.getpid(), "has it, next is", end.next_sequence, flush=True)
        end.send(end.next_sequence, rings.random_section(rings.np.random.default_rng(0), rings.Source.TARGET, 4))
    else:
        end = rings.OutputReceiver(instance, 0, backend=of)
        print(os.getpid(), "has it, next is", end.receive(10).sequence, flush=True)
except ChannelInUseError as error:
    print(error, flush=True)
sys.stdin.readline()
os._exit(1)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with own_folder() as path:
        yield path


@pytest.fixture
def may_unshare() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no PID namespace may be made here: {tried.stderr.strip()}")


@contextmanager
def owner(folder: Path, name: str, end: str, instance: int, *, namespace: bool) -> Iterator[tuple[str, Callable]]:
    """What a process that opens an end says, and how it is made to die."""
    command = [
        *(NAMESPACE if namespace else ()),
        sys.executable,
        "-c",
        OWNER,
        str(folder),
        name,
        end,
        str(instance),
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None

        def die() -> None:
            process.stdin.close()
            process.wait(END_S)

        try:
            yield process.stdout.readline().strip(), die
        finally:
            process.kill()


@pytest.mark.usefixtures("may_unshare")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_container_that_restarts_goes_on_with_its_ring(folder: Path, name: str) -> None:
    """Each life is process 1 of a namespace of its own, with the /dev/shm of the one before."""
    instance, of = new_instance(), backend(name)
    for life in range(3):
        with owner(folder, name, "sender", instance, namespace=True) as (said, die):
            assert said == f"1 has it, next is {life}"
            die()
    for _ in range(2):
        with owner(folder, name, "receiver", instance, namespace=True) as (said, die):
            assert said == "1 has it, next is 0"
            die()
    receiver = OutputReceiver(instance, 0, backend=of)
    assert [receiver.receive(5).sequence for _ in range(3)] == [0, 1, 2]
    with pytest.raises(WriterGoneError, match="process 1 of another PID namespace, which is dead"):
        receiver.receive(END_S)
    receiver.close()
    assert clear_dead_rings(2**63, grace_s=0) == [ring_path(instance, 0)]


@pytest.mark.usefixtures("may_unshare")
@pytest.mark.parametrize("name", BACKENDS)
def test_an_owner_that_lives_elsewhere_is_seen(folder: Path, name: str) -> None:
    instance, of = new_instance(), backend(name)
    with owner(folder, name, "sender", instance, namespace=True) as (said, die):
        assert said.startswith("1 has it")
        with pytest.raises(ChannelInUseError, match="written by process 1 of another PID namespace; .* set "):
            OutputSender(instance, 0, SIZE, backend=of)
        with owner(folder, name, "sender", instance, namespace=True) as (refusal, _):
            assert "is written by process 1 of another PID namespace" in refusal
        with owner(folder, name, "receiver", instance, namespace=True) as (said, end_reader):
            assert said == "1 has it, next is 0"
            with pytest.raises(ChannelInUseError, match="read by process 1 of another PID namespace; others can"):
                OutputReceiver(instance, 0, backend=of)
            assert clear_dead_rings(2**63, grace_s=0) == []
            end_reader()
        OutputReceiver(instance, 0, backend=of).close()
        die()
    OutputSender(instance, 0, SIZE, backend=of).close()


@pytest.mark.usefixtures("may_unshare")
def test_who_lives_here_is_seen_from_elsewhere(folder: Path) -> None:
    instance, of = new_instance(), backend("python")
    sender = OutputSender(instance, 0, SIZE, backend=of)
    with owner(folder, "python", "sender", instance, namespace=True) as (refusal, _):
        assert f"is written by process {os.getpid()} of another PID namespace" in refusal
    sender.close()


def test_a_number_in_the_header_decides_nothing(folder: Path) -> None:
    """The process id of the dead may be that of anybody by now, of ourselves, too."""
    instance, of = new_instance(), backend("python")
    with owner(folder, "python", "sender", instance, namespace=False) as (said, die):
        assert said.endswith("has it, next is 0")
        die()
    ring = open_ring(ring_path(instance, 0), writable=True)
    ring.words[Word.WRITER_PID], ring.words[Word.WRITER_NAMESPACE] = os.getpid(), 1
    ring.close()
    sender = OutputSender(instance, 0, SIZE, backend=of)
    ring = open_ring(ring_path(instance, 0), writable=True)
    ring.words[Word.WRITER_PID] = 0
    with pytest.raises(ChannelInUseError):
        OutputSender(instance, 0, SIZE, backend=of)
    assert ring.writer.is_alive
    ring.close()
    sender.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_forked_child_does_not_keep_what_its_dead_parent_had(folder: Path, name: str) -> None:
    instance, of = new_instance(), backend(name)
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            ends = [OutputSender(instance, 0, SIZE, backend=of), OutputReceiver(instance, 0, backend=of)]
            if os.fork() == 0:
                os.write(write, str(os.getpid()).encode())  # it has left its parent's ends alone by now
                time.sleep(10 * END_S)
            signal.pause()
            assert ends
        finally:
            os._exit(1)
    os.close(write)
    child = int(os.read(read, 32))
    os.close(read)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        os.kill(child, 0)
        receiver, sender = OutputReceiver(instance, 0, backend=of), OutputSender(instance, 0, SIZE, backend=of)
        sender.send(0, SECTION)
        assert receiver.receive(5).sequence == 0
        os.kill(child, 0)  # it has lived through this
        receiver.close(), sender.close()
    finally:
        os.kill(child, signal.SIGKILL)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", BACKENDS)
def test_a_forked_child_does_not_give_up_what_its_parent_has(folder: Path, name: str) -> None:
    instance, of = new_instance(), backend(name)
    sender, receiver = OutputSender(instance, 0, SIZE, backend=of), OutputReceiver(instance, 0, backend=of)
    sender.send(0, SECTION)
    child = os.fork()
    if child == 0:
        try:
            sender.close()
            receiver.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    for take in (
        lambda: OutputSender(instance, 0, SIZE, backend=of),
        lambda: OutputReceiver(instance, 0, backend=of),
    ):
        with pytest.raises(ChannelInUseError, match=f"by process {os.getpid()}; "):
            take()
    assert receiver.receive(5).sequence == 0 and sender.send(1, SECTION) == 1
    assert receiver.receive(5).sequence == 1
    sender.close(), receiver.close()
    assert not list(folder.iterdir())


def test_others_of_the_same_process_drop_nothing(folder: Path) -> None:
    """As a lock of the older kind would be dropped, when any descriptor of the file is closed."""
    instance, of = new_instance(), backend("python")
    sender = OutputSender(instance, 0, SIZE, backend=of)
    OutputObserver(instance, 0, backend=of).close()
    OutputReceiver(instance, 0, backend=of).close()
    open_ring(sender.path, writable=True).close()
    clear_dead_rings(2**63, grace_s=0)
    with pytest.raises(ChannelInUseError, match="mtp_output.instance"):
        OutputSender(instance, 0, SIZE, backend=of)
    assert sender.path.exists()
    sender.close()
