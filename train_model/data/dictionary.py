"""fairseq's dictionary: a text file of "symbol count" lines behind four special symbols."""

import os
from collections.abc import Iterable, Mapping

from train_model.cli import UserError, atomic_path
from train_model.data.files import read_lines

BOS, PAD, EOS, UNK = range(4)
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MULTIPLE = 8  # tensor cores like vocabularies of such a size, and fairseq pads to it too


class Dictionary:
    """Symbols and their indices; ``symbols[i]`` has index ``i`` and the first four are special."""

    def __init__(self, counts: Iterable[tuple[str, int]]):
        """Number the symbols in the given order, after the specials.

        Raises:
            UserError: a symbol comes twice.
        """
        self.counts = list(counts)
        self.symbols = [*SPECIALS, *(symbol for symbol, _ in self.counts)]
        self._indices = {symbol: index for index, symbol in enumerate(self.symbols)}
        if len(self._indices) != len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if self._indices[s] != i)
            raise UserError(f"dictionary has {twice!r} twice; every symbol may come once")

    def __len__(self) -> int:
        return len(self.symbols)

    def index(self, symbol: str) -> int:
        """The symbol's index, or that of ``<unk>``."""
        return self._indices.get(symbol, UNK)

    @classmethod
    def from_frequencies(cls, frequencies: Mapping[str, int]) -> "Dictionary":
        """The most frequent symbol first, and made up words that fill the size to a multiple of 8."""
        counts = sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
        missing = -(len(SPECIALS) + len(counts)) % MULTIPLE
        return cls([*counts, *((f"madeupword{index:04d}", 0) for index in range(missing))])

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Dictionary":
        """Read a file that fairseq or :meth:`save` wrote.

        Raises:
            UserError: no such file, not text, or a line that is not "symbol count".
        """
        try:
            lines = list(read_lines(path))
        except FileNotFoundError:
            raise UserError(
                f"no dictionary at {path}; give the one that the model was trained with"
            ) from None
        counts = []
        for number, line in enumerate(lines, start=1):
            symbol, _, count = line.rstrip().rpartition(" ")
            if not symbol or not count.isdecimal():
                raise UserError(
                    f"{path} line {number} is {line[:40]!r}; a dictionary has 'symbol count' lines"
                )
            counts.append((symbol, int(count)))
        if not counts:
            raise UserError(f"{path} is empty; a dictionary has 'symbol count' lines")
        try:
            return cls(counts)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the file that :meth:`load` and fairseq read."""
        text = "".join(f"{symbol} {count}\n" for symbol, count in self.counts)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
