"""Any one-pass or iterative network in PyTorch's own kernels, with the interface of the fused network.

The ``lite::`` operators use their CUDA kernels here too if ``make torch-ops`` has built them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from train_model.models.architectures import architecture_of
from train_model.models.one_pass import OnePassTranslator


class Source(NamedTuple):
    """The encoder's results."""

    encoded: Any  # what the network's ``encode`` returns
    lengths: Tensor  # [B] int64, predicted target lengths, at least 2


class PlainNetwork:
    """One network on one device in one precision; see ``FusedNetwork`` for the methods.

    Products in FP32 follow PyTorch's setting during the capture (``trt_code.runners.pytorch``).
    """

    def __init__(self, model: OnePassTranslator, dtype: torch.dtype, device: torch.device) -> None:
        self._model = architecture_of(model).fold(model).to(device, dtype).eval()
        self.config, self.dtype = model.config, dtype

    def encode(self, src_tokens: Tensor, limits: Tensor) -> Source:
        """Encode [B, S] int64 tokens; predict target lengths of at most ``limits`` [B] int64."""
        encoded = self._model.encode(src_tokens)
        return Source(encoded, torch.minimum(self._model.predict_length(encoded), limits))

    def decode(self, source: Source, width: int) -> tuple[Tensor, Tensor]:
        """Fill a canvas of ``width`` positions: tokens [B, width] int64 and scores [B, width] float32."""
        return self.fill(self._model.initial_canvas(source.lengths, width), source)

    def fill(self, canvas: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """Run the decoder on a canvas [B, T] int64: tokens [B, T] int64 and scores [B, T] float32."""
        return self._model.choose(self._model.decode(canvas, source.encoded), canvas)

    def translate(
        self, src_tokens: Tensor, limits: Tensor, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode and decode on a canvas that does not depend on the lengths; the lengths come last."""
        source = self.encode(src_tokens, limits)
        return *self.decode(source, width), source.lengths
