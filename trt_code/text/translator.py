"""Translates text on any runner: encodes, batches by length, translates, decodes, in the given order."""

from collections.abc import Callable, Sequence

import numpy as np

from train_model.cli import UserError, check_number
from train_model.data.tokenizer import Tokenizer
from train_model.models.hypotheses import Found
from trt_code.runners import Runner
from trt_code.runners.base import NO_NUMBERS
from trt_code.text import batching
from trt_code.text.codec import Codec, OnError, TooLong, Translation, Unknown, annotate

MAX_TOKENS = 4096
MAX_SENTENCES = 128


class LineTranslator:
    """Translates lines with a runner.

    Args:
        max_tokens, max_sentences: bounds of a batch, padding included.
        too_long, unknown, on_error: see ``Codec``.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        max_tokens: int = MAX_TOKENS,
        max_sentences: int = MAX_SENTENCES,
        too_long: TooLong = "refuse",
        unknown: Unknown | None = None,
        on_error: OnError = "stop",
    ):
        check_number("max_tokens", max_tokens, 1)
        check_number("max_sentences", max_sentences, 1)
        self._runner = runner
        self._codec = Codec(tokenizer, runner.max_source, too_long, unknown, on_error)
        self._max_tokens = max_tokens
        self._max_sentences = min(max_sentences, runner.max_batch or max_sentences)

    def translate(
        self,
        lines: Sequence[str],
        first_line: int = 1,
        done: Callable[[int], None] = lambda count: None,
        n_best: int = 0,
        beam: int | None = None,
    ) -> list[Translation]:
        """Translate ``lines``; a line without text gives an empty one.

        Args:
            lines: sentences.
            first_line: the number of the first in the user's input, for messages.
            done: called with the number of lines finished, after every batch.
            n_best: hypotheses with scores for each line; 0 gives only the text.
            beam: the beam of the search for them; None uses the runner's.

        Raises:
            UserError: a line is refused, or the runner does not give ``n_best`` translations. Nothing has
                been translated then.
        """
        self._runner.check_n_best(n_best)
        rows, notes = self._codec.encode_lines(lines, first_line)
        translations = [Translation("", 0)] * len(rows)
        filled = [i for i, row in enumerate(rows) if row]
        done(len(rows) - len(filled))
        lengths = [len(rows[i]) for i in filled]
        for batch in batching.by_length(lengths, self._max_tokens, self._max_sentences):
            chosen = [filled[i] for i in batch]
            result = run_batch(self._runner, batching.pad([rows[i] for i in chosen]), n_best, beam)
            for i, translation in zip(chosen, self._codec.decode(result), strict=True):
                translations[i] = translation
            done(len(batch))
        annotate(translations, notes)
        return translations


def run_batch(
    runner: Runner, src_tokens: np.ndarray, n_best: int, beam: int | None = None
) -> np.ndarray | Found:
    """Return the input of ``Codec.decode``: the tokens of a batch, or its ``n_best`` candidates.

    Raises:
        UserError: a score of the network is infinite or NaN, so its tokens are meaningless.
    """
    if n_best:
        found = runner.candidates(src_tokens, n_best, beam)
        finished = np.arange(found.scores.shape[1]) < found.counts[:, None]
        _check_finite(found.scores[finished])
        _check_finite(found.positional_scores[finished])
        return found
    output = runner.run(src_tokens)
    _check_finite(output.scores)
    return output.tokens


def _check_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise UserError(NO_NUMBERS)
