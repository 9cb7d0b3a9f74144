"""A cache of a function's results for words, with bounded memory."""

from collections.abc import Callable
from typing import Any

WORDS = 2**16
"""The most words in a cache."""
LONG_WORD = 64
"""Characters; longer words are not kept."""


class WordCache(dict):
    """A dict of the results of ``function`` for each word; ``cache[word]`` calls it if the word is new.

    Words recur, and a dict returns a known word without a call of a Python function.

    Args:
        function: of one word; None if the caller fills the cache.
    """

    def __init__(self, function: Callable[[str], Any] | None = None) -> None:
        self._function = function

    def __missing__(self, word: str) -> Any:
        if self._function is None:
            raise KeyError(word)
        value = self._function(word)
        self[word] = value
        return value

    def __setitem__(self, word: str, value: Any) -> None:
        if len(word) > LONG_WORD:
            return
        if len(self) >= WORDS:
            self.clear()
        super().__setitem__(word, value)
