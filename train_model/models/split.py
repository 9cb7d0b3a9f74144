"""A one-pass network cut in two, so that the canvas need not be wider than the translations.

The first part ends with the predicted lengths. The caller builds a canvas just wide enough for the longest
of them, and the second part fills it. The results at the real positions are the same: the decoder's
convolutions are causal, its attention reads only the source, and the CRF keeps its state over padding. Both
parts take and return plain tensors, so that they run in PyTorch, in ONNX Runtime and in TensorRT.
"""

from torch import Tensor, nn


class _Part(nn.Module):
    """Holds the network's own modules under their own names, which an exported graph shows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name, module in model.named_children():
            self.add_module(name, module)
        self.__dict__["model"] = model  # unregistered: its modules would have two names


class SplitEncoder(_Part):
    """Source tokens to the encoder's output and the predicted target lengths."""

    def forward(self, src_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] int64 to the last layer's output [B, S, C] and the lengths [B] int64, 2 or more."""
        source = self.model.encode(src_tokens)
        return source.x, self.model.predict_length(source)


class SplitDecoder(_Part):
    """A canvas and the encoder's output to the translation."""

    def forward(self, src_tokens: Tensor, encoded: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the canvas.

        Embeddings and positions of the source are looked up again, which costs less than passing them.

        Args:
            src_tokens: [B, S] int64.
            encoded: the encoder's output [B, S, C].
            canvas: [B, T] int64, see ``train_model.models.canvas``; T is at most the decoder's positions.

        Returns:
            Tokens [B, T] int64 and scores [B, T] float32, equal to the whole network's.
        """
        source = self.model.with_output(src_tokens, encoded)
        return self.model.choose(self.model.decode(canvas, source), canvas)
