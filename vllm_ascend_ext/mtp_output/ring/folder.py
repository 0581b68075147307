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
from vllm_ascend_ext.mtp_output.ring.lock import RingLock
from vllm_ascend_ext.mtp_output.ring.owner import Owner, pid_namespace
from vllm_ascend_ext.mtp_output.ring.size import HEADER_BYTES, RingSize

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "ascend_ext-"
ORPHAN_GRACE_S = 600.0
"""For how long a ring is kept for a writer or a reader that comes back."""

_logger = logging.getLogger(__name__)


def ring_path(instance: int, replica: int) -> Path:
    """Returns the path of a replica's ring."""
    return SHARED_MEMORY / f"{PREFIX}{instance}-{replica}"


def create(path: Path, instance: int, replica: int, size: RingSize) -> RingFile | None:
    """Makes the file, whole and this process's from the moment it has its name.

    Returns:
        The ring, of which this process is the writer; None when somebody has removed it already.

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
    lock = RingLock(file, path)
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
            Word.WRITER_PID: os.getpid(),
            Word.WRITER_NAMESPACE: pid_namespace(),
        }.items():
            words[word] = value
        os.pwrite(file, words.tobytes(), 0)
        lock.claim(8 * Word.WRITER_PID)  # before it has a name: nobody finds it without its writer
        # with a folder's descriptor CPython calls linkat, which follows the link in /proc to the nameless file
        os.link(f"/proc/self/fd/{file}", path.name, dst_dir_fd=folder, follow_symlinks=True)
        return _mapped(path, lock, lock.status)
    except BaseException:
        lock.close()
        raise
    finally:
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
    while True:
        lock = RingLock(_open(path, os.O_RDWR), path) if writable else None
        file = _mapped(path, lock, None if lock is None else lock.status)
        if file is not None:
            return file


def _mapped(path: Path, lock: RingLock | None, status: os.stat_result | None) -> RingFile | None:
    """Maps the ring at `path` by a description of its own, beside that of the lock.

    Returns:
        None, with the lock closed, when the ring at `path` is another one than the lock's.
    """
    try:
        file = _open(path, os.O_RDONLY if lock is None else os.O_RDWR)
        try:
            if status is not None and not os.path.samestat(status, os.fstat(file)):
                raise FileNotFoundError(path)
            return RingFile(file, path, lock)
        except BaseException:
            os.close(file)
            raise
    except FileNotFoundError:
        if lock is None:
            raise
        lock.close()
        return None
    except BaseException:
        if lock is not None:
            lock.close()
        raise


def _open(path: Path, access: int) -> int:
    """Opens what may be a ring; raises as `open_ring`."""
    # whatever it is, opening it does not wait
    file = os.open(path, access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ChannelError(
                f"{path} belongs to user {status.st_uid} and has mode {status.st_mode & 0o777:o}: not ours alone"
            )
        if not stat.S_ISREG(status.st_mode) or status.st_size < mmap.PAGESIZE:
            raise ChannelError(f"{path} is no ring: it is no file, or one of {status.st_size} bytes")
    except BaseException:
        os.close(file)
        raise
    return file


def living_writer(instance: int, replica: int) -> Owner | None:
    """Returns the process that writes a replica's ring now, None where there is no ring or nobody writes it."""
    try:
        ring = open_ring(ring_path(instance, replica), writable=False)
    except (FileNotFoundError, ChannelError):
        return None  # whoever makes the ring finds out what else lies there
    writer = ring.writer
    ring.close()
    return writer if writer.is_alive else None


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
