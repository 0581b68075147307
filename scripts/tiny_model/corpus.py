# SPDX-License-Identifier: Apache-2.0
"""Reads the training text: the source of the Python standard library this interpreter ships."""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

EXCLUDED_DIRS = {"site-packages", "idlelib", "lib2to3", "test", "tests", "__pycache__", "pydoc_data"}
EXCLUDED_ENCODINGS_DIR = "encodings"  # generated code pages
MAX_FILE_BYTES = 180_000  # beyond this a standard library file is a table or a second implementation
VALIDATION_FILES = (
    "bdb.py",
    "configparser.py",
    "csv.py",
    "fractions.py",
    "heapq.py",
    "json/decoder.py",
    "queue.py",
    "sched.py",
    "shlex.py",
    "textwrap.py",
)


@dataclass(frozen=True)
class Corpus:
    """Texts by split, in sorted path order, and the digest of everything read."""

    train: list[str]
    validation: list[str]
    digest: str
    num_bytes: int


def _is_training_text(path: Path) -> bool:
    parts = set(path.parts[:-1])
    if parts & EXCLUDED_DIRS or EXCLUDED_ENCODINGS_DIR in parts:
        return False
    return not path.name.startswith("_sysconfigdata")


def read_corpus() -> Corpus:
    """Reads ``*.py`` of the standard library; the digest covers relative path and content of each file."""
    root = Path(sysconfig.get_paths()["stdlib"])
    relative_paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    train: list[str] = []
    validation: list[str] = []
    hasher = hashlib.sha256()
    num_bytes = 0
    for relative in relative_paths:
        data = (root / relative).read_bytes()
        if not _is_training_text(relative) or not 0 < len(data) <= MAX_FILE_BYTES:
            continue
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        hasher.update(relative.as_posix().encode() + b"\0" + data + b"\0")
        num_bytes += len(data)
        (validation if relative.as_posix() in VALIDATION_FILES else train).append(text)
    return Corpus(train, validation, hasher.hexdigest(), num_bytes)


def encode_texts(tokenizer: Tokenizer, texts: list[str], bos_id: int, eos_id: int) -> torch.Tensor:
    """Concatenates ``bos text eos`` of every text into one int64 stream ``[N]``."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        ids.append(bos_id)
        ids.extend(encoding.ids)
        ids.append(eos_id)
    return torch.tensor(ids, dtype=torch.long)


class WindowSampler:
    """Shuffles windows of a token stream, a new offset and order each epoch, a pure function of the step.

    ``batch(step)`` returns ``[B, L]`` tokens; windows do not overlap within an epoch.
    """

    def __init__(self, stream_N: torch.Tensor, window: int, batch_size: int, seed: int) -> None:
        self.stream_N = stream_N
        self.window = window
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = (len(stream_N) // window - 1) // batch_size

    def batch(self, step: int) -> torch.Tensor:
        epoch, index = divmod(step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1000 + epoch)
        offset = int(torch.randint(self.window, (1,), generator=generator))
        order = torch.randperm(len(self.stream_N) // self.window - 1, generator=generator)
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
        starts = (offset + chosen * self.window).tolist()
        return torch.stack([self.stream_N[start : start + self.window] for start in starts])
