# SPDX-License-Identifier: Apache-2.0
"""Trains a byte-level BPE tokenizer with a lossless round trip, in the files ``AutoTokenizer`` reads."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2
# Newline runs and indentation stay whole; a word keeps one leading space; digits come one by one.
SPLIT_PATTERN = r"\n+|[ \t]+(?=[ \t]\S)|[ \t]+(?=\n)| ?[A-Za-z]+| ?_+|\d| ?[^\sA-Za-z0-9_]+|\s+"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Trains on ``texts`` in order; ids 0, 1, 2 are the begin, end and pad tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"tokenizer has {tokenizer.get_vocab_size()} entries, expected {vocab_size}")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out_dir: Path, max_length: int) -> None:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json`` into ``out_dir``."""
    tokenizer.save(str(out_dir / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "chat_template": CHAT_TEMPLATE,
    }
    (out_dir / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
