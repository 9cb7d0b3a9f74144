"""``conv_crf_transformer`` cut in two, so that the canvas need not be wider than the translations.

The encoder's half ends with the predicted lengths. Whoever runs it builds a canvas just wide enough for
the longest of them, and the decoder's half fills it. That changes nothing at the real positions: the
decoder's convolutions are causal, its attention looks at the source alone, and the CRF keeps its state
over padding. Both halves take and give plain tensors, so that the same two run in PyTorch, in ONNX
Runtime and in TensorRT.
"""

from torch import Tensor, nn

from train_model.models.conv_crf_transformer import PAD, ConvCrfTransformer, EncoderOut


class _Half(ConvCrfTransformer):
    """The network's own parts, called in another way."""

    def __init__(self, model: ConvCrfTransformer) -> None:
        nn.Module.__init__(self)
        self.config, self.encoder, self.decoder = model.config, model.encoder, model.decoder
        self.crf_layer = model.crf_layer


class EncoderHalf(_Half):
    """Source tokens to the encoder's output and the predicted target lengths."""

    def forward(self, src_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] int64 to the last layer's output [B, S, C] and the lengths [B] int64, 2 or more."""
        source = self.encode(src_tokens)
        return source.x, self.predict_length(source)


class DecoderHalf(_Half):
    """A canvas and what the encoder gave to the translation."""

    def forward(self, src_tokens: Tensor, encoded: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the canvas.

        Embeddings and positions of the source are looked up once more: that is less than to hand
        them over.

        Args:
            src_tokens: [B, S] int64.
            encoded: the encoder's output [B, S, C].
            canvas: [B, T] int64, see ``train_model.models.canvas``; T is at most the decoder's positions.

        Returns:
            Tokens [B, T] int64 and scores [B, T] float32, as the whole network gives them.
        """
        embedded, positions = self.encoder.embed(src_tokens)
        source = EncoderOut(encoded, src_tokens.eq(PAD), embedded, positions)
        return self.crf_decode(self.decode(canvas, source), canvas)
