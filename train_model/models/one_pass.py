"""The common part of translators that write all target tokens in one pass.

The encoder's output gives the target's length, a canvas of that length goes through the decoder, and the
network chooses tokens from the decoder's scores. The networks are ``conv_crf_transformer``,
``nonautoregressive_transformer`` and ``nacrf_transformer``.
"""

import abc
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_model.data.dictionary import BOS, EOS, PAD, UNK
from train_model.models.canvas import PER_SOURCE_TOKEN, canvas_width

LENGTH_CLASSES = 256
# With --pred-length-offset, the class is the difference of target and source length plus this.
LENGTH_OFFSET = 128


def length_logits(x: Tensor, padding_mask: Tensor, weight: Tensor, detach: bool) -> Tensor:
    """Score the length classes [B, 256] by the mean of ``x`` [B, S, C] over the real source positions.

    Args:
        padding_mask: True at padding [B, S].
        weight: one row per class [256, C].
        detach: stop the length's gradient before the encoder.
    """
    real = (~padding_mask)[:, :, None].type_as(x)
    pooled = (x * real).sum(1) / real.sum(1).clamp(min=1)
    return F.linear(pooled.detach() if detach else pooled, weight)


class OnePassTranslator(nn.Module, abc.ABC):
    """A whole network: ``encoder``, ``decoder`` with ``length_logits(source)``, and ``config``.

    A source is what :meth:`encode` returns: a tuple with ``x`` [B, S, C] and ``padding_mask`` [B, S].
    """

    def forward(self, src_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Translate [B, S] int64 tokens in one pass.

        Returns:
            output_tokens [B, T] int64 and output_scores [B, T] float32. T is twice S, at most the
            decoder's positions. A sentence's tokens include bos and eos; ``<pad>`` with score 0 follows.
        """
        source = self.encode(src_tokens)
        canvas = self.initial_canvas(
            self.predict_length(source), self.canvas_width(src_tokens.shape[1])
        )
        return self.choose(self.decode(canvas, source), canvas)

    def encode(self, src_tokens: Tensor) -> Any:
        """Encode [B, S] int64 tokens."""
        return self.encoder(src_tokens)

    def predict_length(self, source: Any) -> Tensor:
        """Return the most likely target length [B] int64, bos and eos included, at least 2.

        With the padding policy ``masked`` it is at most twice the sentence's own source.
        """
        lengths = self.decoder.length_logits(source).argmax(-1)
        if self.config.pred_length_offset:
            lengths = lengths - LENGTH_OFFSET + (~source.padding_mask).sum(1)
        lengths = lengths.clamp(min=2)
        if self.config.padding_policy == "masked":
            # at most the sentence's canvas in a batch of one
            own = (~source.padding_mask).sum(1).clamp(min=1)
            lengths = torch.minimum(lengths, PER_SOURCE_TOKEN * own)
        return lengths

    def canvas_width(self, src_len: int | torch.SymInt) -> int | torch.SymInt:
        """Return the width of the whole canvas for sources of ``src_len`` tokens, padding included."""
        return canvas_width(src_len, self.config.max_target_positions, torch.sym_min)

    def initial_canvas(self, lengths: Tensor, width: int) -> Tensor:
        """The decoder's first input [B, width]: ``<s> <unk> ... <unk> </s> <pad> ...``.

        ``lengths`` [B] greater than the width are cut to it.
        """
        index = torch.arange(width, device=lengths.device)
        last = lengths[:, None].clamp(max=width) - 1
        canvas = torch.where(index < last, UNK, torch.where(index == last, EOS, PAD))
        return torch.where(index == 0, BOS, canvas)

    def decode(self, canvas: Tensor, source: Any) -> Tensor:
        """Scores [B, T, V] of every token at every position of the canvas [B, T]."""
        return self.decoder(canvas, source)

    @abc.abstractmethod
    def with_output(self, src_tokens: Tensor, encoded: Tensor) -> Any:
        """Rebuild the result of :meth:`encode` for ``src_tokens`` [B, S] from its part ``x``."""

    @abc.abstractmethod
    def choose(self, logits: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Choose from ``logits`` [B, T, V]: tokens [B, T] int64, scores [B, T] float32; padding stays."""
