"""The corpus' SentencePiece model: 8,000 symbols for both languages, and the characters that it unifies."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from train_model.cli import UserError, atomic_path
from train_model.data.corpora.en_de.cleaning import CHARACTERS
from train_model.data.dictionary import SPECIALS
from train_model.data.files import read_lines, write_lines
from train_model.data.subwords import SentencePiece, require

MODEL, RULES = "sentencepiece.model", "characters.tsv"
SYMBOLS = 8000
"""Size of the dictionary, with its four special symbols."""


class SampledSentencePiece(SentencePiece):
    """A SentencePiece model that can also leave out merges at random, for BPE dropout."""

    def symbols(self) -> list[str]:
        """Return all pieces but SentencePiece's special ones."""
        ids = range(self._processor.get_piece_size())
        special = self._processor.is_control, self._processor.is_unknown
        return [
            self._processor.id_to_piece(index)
            for index in ids
            if not any(is_special(index) for is_special in special)
        ]

    def sample(self, text: str, dropout: float) -> list[str]:
        """Return the pieces, with each merge left out with probability ``dropout``."""
        return self._processor.encode(
            text, out_type=str, enable_sampling=True, alpha=dropout, nbest_size=-1
        )

    def seed(self, seed: int) -> None:
        """Seed :meth:`sample`'s random numbers, whose generator is shared by the whole process."""
        require("sentencepiece").set_random_generator_seed(seed)


def learn(folder: Path, languages: Sequence[str], symbols: int = SYMBOLS) -> None:
    """Learn the model from the training text of all languages and write it into ``folder``.

    Raises:
        UserError: there is too little text for this number of symbols.
    """
    package = require("sentencepiece")
    folder = folder.resolve()
    rules = (f"{_code(a)}\t{' '.join(map(_code, b))}" for a, b in sorted(CHARACTERS.items()))
    write_lines(folder / RULES, rules)
    text = (line for name in languages for line in read_lines(folder / f"train.{name}"))
    # SentencePiece's three special pieces correspond to fairseq's four
    size = symbols - len(SPECIALS) + 3
    with (
        atomic_path(folder / MODEL) as temporary,
        temporary.open("wb") as file,
        contextlib.chdir(folder),  # the model records the path of the normalisation rules
    ):
        try:
            package.SentencePieceTrainer.train(
                sentence_iterator=text,
                model_writer=file,
                model_type="bpe",
                vocab_size=size,
                character_coverage=0.99999,
                split_digits=True,
                normalization_rule_tsv=RULES,
                unk_surface="<unk>",
                num_threads=os.cpu_count(),
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(f"no SentencePiece model of {size} pieces: {error}") from error


def _code(character: str) -> str:
    return f"{ord(character):X}"
