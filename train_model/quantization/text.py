"""Sentences for calibration and for measuring, in batches of nearly equal length."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from train_model.cli import UserError
from train_model.data.dictionary import BOS, EOS, PAD, SPECIALS, misfit
from train_model.data.files import read_lines
from train_model.data.tokenizer import Tokenizer, normalise
from train_model.model_folder import ModelFolder, validation_text
from train_model.model_yaml import described

BATCH = 64
_RANDOM_LENGTHS = (8, 16, 32, 64)


def read_sentences(path: Path, limit: int) -> list[str]:
    """Return the first ``limit`` lines of a file that are not blank.

    Raises:
        UserError: the file is missing, is not UTF-8 text, or has no sentence.
    """
    if not path.is_file():
        raise UserError(
            f"there is no text {path}; give one with --text (make ptq QUANTIZE='--text FILE')"
        )
    lines = list(itertools.islice(filter(normalise, read_lines(path)), limit))
    if not lines:
        raise UserError(f"{path} has no sentence in it; give another with --text")
    return lines


def batches(rows: list[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield batches of sentences by length: their indices and tokens [B, S] int64, padded on the right."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        tokens = torch.full((len(chosen), len(rows[chosen[-1]])), PAD)
        for place, index in enumerate(chosen):
            tokens[place, : len(rows[index])] = torch.tensor(rows[index])
        yield chosen, tokens


def calibration_rows(
    files: ModelFolder, text: Path | None, sentences: int, vocabulary: int, longest: int
) -> tuple[list[list[int]], str]:
    """Return encoded sentences to calibrate with, and a description of them.

    They are from ``text``, or else from the validation split next to the model's test split; a model
    without any text gets random tokens.

    Raises:
        UserError: there is no text, or none of its sentences fits the network.
    """
    if text is None and files.test_src is None:
        return _random_rows(sentences, vocabulary, longest), f"{sentences} random sentences"
    if files.text is None:
        raise UserError(f"{files.name} has no dictionary to read {text} with")
    path = text or validation_text(files.test_src)
    check_dictionary(files, vocabulary)
    tokenizer = Tokenizer.from_files(files)
    most = tokenizer.characters(longest)
    lines = [line for line in read_sentences(path, sentences) if len(line) <= most]
    fitting = [row for row in map(tokenizer.encode, lines) if len(row) <= longest]
    if not fitting:
        raise UserError(f"every sentence of {path} is longer than {longest} tokens")
    return fitting, f"{len(fitting)} sentences of {path}"


def check_dictionary(files: ModelFolder, vocabulary: int) -> None:
    """Raise ``UserError`` unless the source dictionary has the ``vocabulary`` symbols of the network."""
    sizes = {"src_vocab": vocabulary} | described(files.checkpoint)
    if reason := misfit(files.checkpoint, "was trained with", sizes, {"src": files.src_dict}):
        raise UserError(f"{reason}: give the dictionary that the network was trained with")


def _random_rows(sentences: int, vocabulary: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for index in range(sentences):
        length = min(_RANDOM_LENGTHS[index % len(_RANDOM_LENGTHS)], longest)
        words = torch.randint(len(SPECIALS), vocabulary, (length - 2,), generator=generator)
        rows.append([BOS, *words.tolist(), EOS])
    return rows
