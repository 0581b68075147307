# SPDX-License-Identifier: Apache-2.0
"""Trains, exports and measures the tiny DeepSeek-V3 model under ``tests/assets/tiny-deepseek``.

Without options this reproduces the shipped model; see the TRAINING.md it writes.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched

import torch
from tiny_model.corpus import Corpus, encode_texts, read_corpus
from tiny_model.evaluation import check_export, evaluate
from tiny_model.export import round_to_bfloat16, save_checkpoint
from tiny_model.model import TinyDeepseek, build_config, initialize_weights
from tiny_model.report import write_report
from tiny_model.tokenizer import BOS_ID, EOS_ID, save_tokenizer, train_tokenizer
from tiny_model.training import Trainer, TrainingRecipe
from transformers import AutoTokenizer

NUM_STEPS = 1500
MAX_ASSET_BYTES = 12_000_000
DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "assets" / "tiny-deepseek"
DEFAULT_STATE = Path(tempfile.gettempdir()) / "tiny-deepseek" / "state.pt"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the exported model")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="file of the training state")
    parser.add_argument("--resume", action="store_true", help="continue from the training state")
    parser.add_argument("--evaluate", action="store_true", help="export and measure the state, do not train")
    return parser.parse_args()


def export(trainer: Trainer, corpus: Corpus, train_N: torch.Tensor, val_N: torch.Tensor, out: Path) -> None:
    """Writes the checkpoint (the tokenizer is in ``out`` already), checks it, measures it and reports."""
    model = trainer.model
    round_to_bfloat16(model)
    save_checkpoint(model, out)
    check_export(model, out, corpus.validation[0])
    result = evaluate(model, AutoTokenizer.from_pretrained(out), val_N, trainer.recipe)
    write_report(trainer, corpus, train_N, result, out)
    num_bytes = sum(path.stat().st_size for path in out.iterdir())
    if num_bytes > MAX_ASSET_BYTES:
        raise ValueError(f"{out} holds {num_bytes} bytes, more than {MAX_ASSET_BYTES}")
    print(result, f"{num_bytes} bytes", sep="\n")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    recipe = TrainingRecipe(num_steps=arguments.steps)
    config = build_config()
    model = TinyDeepseek(config)
    initialize_weights(model, recipe.seed)
    trainer = Trainer(model, recipe, arguments.state)
    if arguments.resume or arguments.evaluate:
        trainer.load_state()

    corpus = read_corpus()
    tokenizer = train_tokenizer(corpus.train, config.vocab_size)
    train_N = encode_texts(tokenizer, corpus.train, BOS_ID, EOS_ID)
    val_N = encode_texts(tokenizer, corpus.validation, BOS_ID, EOS_ID)
    if not arguments.evaluate:
        trainer.run(train_N, val_N)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, arguments.out, config.max_position_embeddings)
    export(trainer, corpus, train_N, val_N, arguments.out)


if __name__ == "__main__":
    main()
