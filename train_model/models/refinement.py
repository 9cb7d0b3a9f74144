"""Iterative refinement: the host's loop around passes of a decoder, without PyTorch.

A pass fills the canvas, and a rule makes the next canvas of the result. Loop and rules are those of fairseq
0.12.2, ``iterative_refinement_generator.py`` and the networks' ``forward_decoder``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from train_model.cli import UserError
from train_model.data.dictionary import PAD, UNK
from train_model.documents import WRONG_FORM
from train_model.models.architectures import ARCHITECTURES, Rule

MAX_ITERATIONS = 1000
Pass = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Refinement:
    """How often a network's decoder runs, and what it reads the next time.

    Attributes:
        rule: "replace": every token is predicted again, from all tokens. "mask-predict": only unknown tokens
            are replaced, and the least certain ones become unknown again, fewer in each pass (Ghazvininejad
            et al. 2019, arXiv 1904.09324). None: the first pass is the translation.
        passes: fairseq's ``--iter-decode-max-iter``, plus 1.
    """

    rule: Rule | None = None
    passes: int = 1

    @classmethod
    def of(
        cls, architecture: str, options: Mapping[str, Any], max_iter: int | None = None
    ) -> "Refinement":
        """Return the refinement of a network.

        Args:
            architecture: fairseq's name of it.
            options: of its configuration.
            max_iter: passes after the first one, instead of the configuration's.
        """
        rule = ARCHITECTURES[architecture].refinement
        if rule is None:
            return cls()
        return cls(rule, 1 + (options["iter_decode_max_iter"] if max_iter is None else max_iter))

    @classmethod
    def in_metadata(cls, metadata: Mapping[str, str], max_iter: int | None = None) -> "Refinement":
        """Return the refinement of an exported network, see ``onnx_export.graph.metadata``.

        Raises:
            UserError: it is an iterative network, and the metadata lack the number of passes.
        """
        architecture = metadata.get("architecture", "")
        if architecture not in ARCHITECTURES:
            return cls()
        try:
            found = cls.of(architecture, json.loads(metadata["config"]), max_iter)
            if type(found.passes) is not int or not 1 <= found.passes <= 1 + MAX_ITERATIONS:
                raise ValueError(found.passes)
        except WRONG_FORM as error:
            raise UserError(
                "the metadata of the graph do not say how often its decoder runs; export it again"
            ) from error
        return found

    def run(self, decode: Pass, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Translate.

        A pass that changes nothing ends the loop early: with the rule "replace" the next one would change
        nothing either. With "mask-predict" all passes run, as with ``--iter-decode-force-max-iter`` in
        fairseq, which may end with unknown tokens without that option.

        Args:
            decode: fills a canvas [B, T] int64; returns tokens [B, T] int64 and their log-probabilities
                [B, T] float32, padding with score 0.
            canvas: the first canvas, see ``train_model.models.canvas``; not changed.

        Returns:
            Tokens and scores, as ``decode`` returns them.
        """
        if self.rule == "mask-predict":
            return self._mask_predict(decode, canvas)
        for _ in range(self.passes):
            tokens, scores = decode(canvas)
            if np.array_equal(tokens, canvas):
                break
            canvas = tokens
        return tokens, scores

    def _mask_predict(self, decode: Pass, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens, scores = canvas, np.zeros(canvas.shape, np.float32)
        for step in range(1, self.passes + 1):
            found, found_scores = decode(tokens)
            unknown = tokens == UNK
            tokens = np.where(unknown, found, tokens)
            scores = np.where(unknown, found_scores, scores)
            if step < self.passes:
                uncertain = _least_certain(scores, tokens != PAD, 1 - step / self.passes)
                tokens = np.where(uncertain, UNK, tokens)
                scores = np.where(uncertain, np.float32(0), scores)
        return tokens, scores


def _least_certain(scores: np.ndarray, real: np.ndarray, share: float) -> np.ndarray:
    """Return where [B, T] the ``share`` of tokens with the lowest scores is; both ends do not count."""
    counts = ((real.sum(1, keepdims=True) - 2).astype(np.float32) * np.float32(share)).astype(int)
    order = np.argsort(scores, axis=1, kind="stable")
    chosen = np.zeros_like(real)
    np.put_along_axis(chosen, order, np.arange(real.shape[1]) < counts, axis=1)
    return chosen
