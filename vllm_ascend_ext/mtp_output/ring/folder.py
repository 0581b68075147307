# SPDX-License-Identifier: Apache-2.0
"""Makes, finds and clears away rings in the folder of all rings."""

from __future__ import annotations

import logging
import mmap
import os
import stat
import time
from pathlib import Path

import numpy as np

from vllm_ascend_ext.mtp_output.errors import ChannelError, ChannelSizeError
from vllm_ascend_ext.mtp_output.ring.file import MAGIC, RingFile, Word
from vllm_ascend_ext.mtp_output.ring.owner import Owner
from vllm_ascend_ext.mtp_output.ring.size import HEADER_BYTES, RingSize

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "ascend_ext-"
ORPHAN_GRACE_S = 600.0
"""For how long a ring is kept for a writer or a reader that comes back."""

_logger = logging.getLogger(__name__)


def ring_path(instance: int, replica: int) -> Path:
    """Returns the path of a replica's ring."""
    return SHARED_MEMORY / f"{PREFIX}{instance}-{replica}"


def create(path: Path, instance: int, replica: int, size: RingSize, writer: Owner) -> None:
    """Makes the file, whole from the moment it has its name.

    Raises:
        FileExistsError: there is one.
        ChannelSizeError: /dev/shm is too small.
    """
    size.check()
    status = os.statvfs(path.parent)
    free, memory = status.f_bavail * status.f_frsize, _available_memory()
    if size.file_bytes > min(free, memory):  # the folder may promise more than the machine has
        raise ChannelSizeError(
            f"{path} needs {size.file_bytes} bytes, {path.parent} has {free} left and the machine {memory} of "
            "memory"
        )
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    file = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(file, 0, size.file_bytes)  # so that no later write finds the memory gone
        except OSError as error:
            raise ChannelSizeError(f"{path} needs {size.file_bytes} bytes: {error.strerror}") from error
        words = np.zeros(HEADER_BYTES // 8, np.uint64)
        for word, value in {
            Word.MAGIC: MAGIC,
            Word.INSTANCE: instance,
            Word.REPLICA: replica,
            Word.CAPACITY: size.capacity,
            Word.NUM_DESCRIPTORS: size.num_descriptors,
            Word.MAX_FRAME_BYTES: size.max_frame_bytes,
            Word.ROSTER_BYTES: size.roster_bytes,
            Word.WRITER_PID: writer.pid,
            Word.WRITER_START: writer.start_ticks,
            Word.WRITER_NAMESPACE: writer.namespace,
        }.items():
            words[word] = value
        os.pwrite(file, words.tobytes(), 0)
        # with a folder's descriptor CPython calls linkat, which follows the link in /proc to the nameless file
        os.link(f"/proc/self/fd/{file}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(file)
        os.close(folder)


def _available_memory() -> int:
    """Returns the bytes that the kernel says can be had without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024


def open_ring(path: Path, *, writable: bool) -> RingFile:
    """Maps a ring that is there.

    Raises:
        FileNotFoundError: there is none.
        ChannelError: it is damaged, or not this user's alone.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # whatever it is, opening it does not wait
    file = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | flags)
    try:
        status = os.fstat(file)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ChannelError(
                f"{path} belongs to user {status.st_uid} and has mode {status.st_mode & 0o777:o}: not ours alone"
            )
        if not stat.S_ISREG(status.st_mode) or status.st_size < mmap.PAGESIZE:
            raise ChannelError(f"{path} is no ring: it is no file, or one of {status.st_size} bytes")
        return RingFile(file, path, writable=writable)
    except BaseException:
        os.close(file)
        raise


def clear_dead_rings(instance: int, *, grace_s: float = ORPHAN_GRACE_S) -> list[Path]:
    """Removes the rings that were found `grace_s` seconds ago, and are now, with writer and reader dead.

    Those of `instance`, whose replicas may start as late as they like, of other users, and what is no ring or is
    locked are left alone. Even a ring that was read to its end is kept for a while: its writer may be restarted,
    and counts on. Returns what it removed.
    """
    removed = []
    for path in sorted(SHARED_MEMORY.glob(f"{PREFIX}*")):
        if path.name.startswith(f"{PREFIX}{instance}-"):
            continue
        try:
            file = open_ring(path, writable=True)
        except (ChannelError, OSError):
            continue
        try:
            with file.locked(0.0):
                if not file.is_unlinked and _is_done_with(file, grace_s):
                    path.unlink(missing_ok=True)
                    removed.append(path)
        except ChannelError:
            continue  # somebody is opening it
        finally:
            file.close()
    return removed


def _is_done_with(file: RingFile, grace_s: float) -> bool:
    words = file.words
    if file.writer.is_alive or file.reader.is_alive:
        words[Word.ORPHANED_AT] = 0
        return False
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME))  # nobody sets it, and /dev/shm is as old at most
    if not 0 < words[Word.ORPHANED_AT] <= now:
        words[Word.ORPHANED_AT] = now
    if now - words[Word.ORPHANED_AT] < grace_s:
        return False
    _logger.warning("%s of %s is removed with %d unread frames", file.path, file.writer, file.num_unread)
    return True
