"""fairseq's dictionary: four special symbols, then those of a text file with lines "symbol count"."""

import hashlib
import os
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from train_model.cli import UserError, atomic_path
from train_model.data.files import read_entries

BOS, PAD, EOS, UNK = range(4)
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
SPECIAL_IDS = {"bos": BOS, "pad": PAD, "eos": EOS, "unk": UNK}
MULTIPLE = 8  # for tensor cores; fairseq pads vocabularies to it too


OVERWRITE = "#fairseq:overwrite"
"""Marks a line that repeats an earlier or a special symbol; the last line with a symbol counts."""
_MADE_UP = re.compile(r"madeupword[0-9]{4,}")


class Dictionary:
    """Symbols and their indices; ``symbols[i]`` has index ``i`` and the first four are special."""

    def __init__(self, counts: Iterable[tuple[str, int]], overwrite: Container[str] = ()):
        """Number the symbols in the given order, after the specials.

        Args:
            counts: symbols and how often they occurred.
            overwrite: symbols that may occur more than once.

        Raises:
            UserError: another symbol occurs twice.
        """
        self.counts, self._overwrite = list(counts), overwrite
        self.symbols = [*SPECIALS, *(symbol for symbol, _ in self.counts)]
        self._indices: dict[str, int] = {}
        for index, symbol in enumerate(self.symbols):
            if symbol in self._indices and symbol not in overwrite:
                raise UserError(f"dictionary has {symbol!r} twice; every symbol may come once")
            self._indices[symbol] = index
        self._fillers = set(range(len(SPECIALS)))
        for index, (symbol, count) in enumerate(self.counts, start=len(SPECIALS)):
            if count == 0 and _MADE_UP.fullmatch(symbol):
                self._fillers.add(index)

    def __len__(self) -> int:
        return len(self.symbols)

    def index(self, symbol: str) -> int:
        """Return the symbol's index, or that of ``<unk>``."""
        return self._indices.get(symbol, UNK)

    def digest(self) -> str:
        """SHA-256 of the symbols in their order."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    def is_filler(self, index: int) -> bool:
        """Return whether the symbol is not text: a special one, or a ``madeupword`` without a count."""
        return index in self._fillers

    @classmethod
    def from_frequencies(cls, frequencies: Mapping[str, int]) -> "Dictionary":
        """Number symbols by falling frequency, and add made-up words up to a multiple of 8."""
        counts = sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
        missing = -(len(SPECIALS) + len(counts)) % MULTIPLE
        return cls([*counts, *((f"madeupword{index:04d}", 0) for index in range(missing))])

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Dictionary":
        """Read a file that fairseq or :meth:`save` wrote.

        Raises:
            UserError: the file is missing or not text, or a line is not "symbol count".
        """
        try:
            lines = read_entries(path)
        except FileNotFoundError:
            raise UserError(
                f"no dictionary at {path}; give the one that the model was trained with"
            ) from None
        counts, overwrite = [], set()
        for number, line in enumerate(lines, start=1):
            entry = line.rstrip()
            again = entry.endswith(f" {OVERWRITE}")
            symbol, _, count = entry.removesuffix(f" {OVERWRITE}").rpartition(" ")
            if not symbol or not re.fullmatch("[0-9]{1,18}", count):
                raise UserError(
                    f"{path} line {number} is {line[:40]!r}; a dictionary has 'symbol count' lines"
                )
            counts.append((symbol, int(count)))
            if again:
                overwrite.add(symbol)
        if not counts:
            raise UserError(f"{path} is empty; a dictionary has 'symbol count' lines")
        try:
            return cls(counts, overwrite)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the file that :meth:`load` and fairseq read."""
        flag = f" {OVERWRITE}"
        text = "".join(
            f"{symbol} {count}{flag if symbol in self._overwrite else ''}\n"
            for symbol, count in self.counts
        )
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def misfit(
    origin: str | os.PathLike,
    made: str,
    sizes: Mapping[str, Any],
    dictionaries: Mapping[str, str | os.PathLike | None],
) -> str | None:
    """Return why dictionaries do not fit a network, or None if they fit as far as is known.

    A network accepts any number below its vocabulary size, so a wrong dictionary would give wrong words
    without an error.

    Args:
        origin: the file of the network, for the message.
        made: how the network got its vocabulary, e.g. "was trained with".
        sizes: the network's vocabulary sizes, as far as known, under ``src_vocab`` and ``tgt_vocab``, and
            under ``dictionaries`` the digests of both dictionaries.
        dictionaries: paths under ``src`` and ``tgt``; None for a model without text.
    """
    digests = sizes.get("dictionaries")
    known = (
        dict(zip(("src", "tgt"), digests, strict=False))
        if isinstance(digests, list | tuple)
        else {}
    )
    for side, path in dictionaries.items():
        size = sizes.get(f"{side}_vocab")
        if path is None or size is None:
            continue
        dictionary = Dictionary.load(path)
        if size != len(dictionary):
            return f"{origin} {made} a dictionary of {str(size)[:20]} words and {path} has {len(dictionary)}"
        if known.get(side, dictionary.digest()) != dictionary.digest():
            return f"{origin} {made} a dictionary of other words than those of {path}"
    return None
