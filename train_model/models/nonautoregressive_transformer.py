"""``nonautoregressive_transformer``, and fairseq's Transformers that build on it.

Gu et al. 2018 (arXiv 1711.02281) with length prediction in place of fertilities. ``nacrf_transformer`` has a
CRF on top (Sun et al. 2019, arXiv 1910.11555). ``iterative_nonautoregressive_transformer`` (Lee et al. 2018,
arXiv 1802.06901) and ``cmlm_transformer`` (Ghazvininejad et al. 2019, arXiv 1904.09324) are the same network,
trained to read and improve its own output. Computation and names follow fairseq 0.12.2,
``fairseq/models/nat``.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from train_model.data.dictionary import PAD
from train_model.models import transformer
from train_model.models.dynamic_crf import DynamicCRF
from train_model.models.layers import embedding, token_embeddings
from train_model.models.one_pass import LENGTH_CLASSES, OnePassTranslator, length_logits
from train_model.models.quantized import QuantizedLinear, replace_linears
from train_model.models.refinement import MAX_ITERATIONS, Refinement
from train_model.models.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class NatTransformerConfig(TransformerConfig):
    """Options of ``nonautoregressive_transformer``."""

    architecture = "nonautoregressive_transformer"

    _: dataclasses.KW_ONLY
    src_embedding_copy: bool = False
    pred_length_offset: bool = False
    sg_length_pred: bool = False

    own_decoder_width = False
    fixed: ClassVar[dict[str, Any]] = TransformerConfig.fixed | {"layernorm_embedding": False}


@dataclasses.dataclass(frozen=True)
class NacrfConfig(NatTransformerConfig):
    """Options of ``nacrf_transformer``."""

    architecture = "nacrf_transformer"

    _: dataclasses.KW_ONLY
    encoder_normalize_before: bool = True
    decoder_normalize_before: bool = True
    crf_lowrank_approx: int = 32
    crf_beam_approx: int = 64


@dataclasses.dataclass(frozen=True)
class IterativeConfig(NatTransformerConfig):
    """Options of ``iterative_nonautoregressive_transformer``.

    ``iter_decode_max_iter`` is an option of fairseq's decoding, with its default: how often the decoder runs
    after its first pass.
    """

    architecture = "iterative_nonautoregressive_transformer"

    _: dataclasses.KW_ONLY
    iter_decode_max_iter: int = 10

    # fairseq copies the source's embeddings in the first pass alone
    fixed: ClassVar[dict[str, Any]] = NatTransformerConfig.fixed | {"src_embedding_copy": False}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.iter_decode_max_iter <= MAX_ITERATIONS:
            raise ValueError(
                f"iter_decode_max_iter is 0 to {MAX_ITERATIONS}, not {self.iter_decode_max_iter}"
            )


@dataclasses.dataclass(frozen=True)
class CmlmConfig(IterativeConfig):
    """Options of ``cmlm_transformer``."""

    architecture = "cmlm_transformer"

    _: dataclasses.KW_ONLY
    share_all_embeddings: bool = True


class Source(NamedTuple):
    """The encoder's output for the decoder; S is the padded length of the source."""

    x: Tensor  # [B, S, C], the encoder's output
    padding_mask: Tensor  # [B, S] bool, True at padding
    embedding: Tensor  # [B, S, C], scaled token embeddings without positions


class DecoderLayer(transformer.DecoderLayer):
    """Self-attention in both directions, attention to the source, feed-forward block."""

    def build_mixing(self, config: NatTransformerConfig, side: str, index: int) -> None:
        """See :meth:`autoregressive.Layer.build_mixing`."""
        super().build_mixing(config, side, index)
        self.causal = False


class Decoder(transformer.Decoder):
    """Length prediction, and the canvas to the scores of every token at every position."""

    layer_class = DecoderLayer

    def __init__(self, config: NatTransformerConfig, embed_tokens: torch.nn.Embedding) -> None:
        super().__init__(config, embed_tokens)
        self.embed_length = embedding(LENGTH_CLASSES, config.encoder_embed_dim, padding_idx=None)
        self.detach_length, self.copy_source = config.sg_length_pred, config.src_embedding_copy

    def length_logits(self, source: Source) -> Tensor:
        """Scores of the length classes [B, 256]."""
        weight = self.embed_length.weight
        return length_logits(source.x, source.padding_mask, weight, self.detach_length)

    def forward(self, canvas: Tensor, source: Source) -> Tensor:
        """Scores [B, T, V] for the canvas [B, T]."""
        padding_mask = canvas.eq(PAD)
        x = self.embed_scale * self.embed_tokens(canvas)
        if self.copy_source:
            x = _copy(source, ~padding_mask)
        if self.embed_positions is not None:
            x = x + self.embed_positions(canvas)
        x = F.dropout(x, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, source, padding_mask)
        return self.project(self.normalize(x))


def _copy(source: Source, real: Tensor) -> Tensor:
    """Source embeddings [B, T, C] at even distances over the ``real`` [B, T] target positions."""
    lengths, targets = (~source.padding_mask).sum(1), real.sum(1)
    step = (lengths.float() - 1) / (targets.float() - 1)
    index = torch.arange(real.shape[1], device=real.device, dtype=torch.float32)
    index = torch.round(step[:, None] * index).long().masked_fill(~real, 0)
    index = index.clamp(min=0)  # a source that is all padding, which fills a batch
    return source.embedding.gather(1, index[:, :, None].expand(-1, -1, source.embedding.shape[2]))


class NonautoregressiveTransformer(OnePassTranslator):
    """The whole network; each position takes its best token."""

    def __init__(self, config: NatTransformerConfig) -> None:
        super().__init__()
        self.config = config
        src_embed, tgt_embed = token_embeddings(config)
        self.encoder = transformer.Encoder(config, src_embed)
        self.decoder = Decoder(config, tgt_embed)
        replace_linears(self, config.int8_layers, QuantizedLinear)

    def encode(self, src_tokens: Tensor) -> Source:
        """Encode [B, S] int64 tokens."""
        return self.with_output(src_tokens, self.encoder(src_tokens).x)

    def with_output(self, src_tokens: Tensor, encoded: Tensor) -> Source:
        """See :meth:`OnePassTranslator.with_output`."""
        embedded = self.encoder.embed_scale * self.encoder.embed_tokens(src_tokens)
        return Source(encoded, src_tokens.eq(PAD), embedded)

    def choose(self, logits: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """The best token of each position, and its log-probability; see ``OnePassTranslator``."""
        real, logits = canvas.ne(PAD), logits.float()
        tokens = logits.argmax(-1)
        scores = logits.gather(2, tokens[:, :, None])[:, :, 0] - logits.logsumexp(-1)
        return torch.where(real, tokens, PAD), torch.where(real, scores, 0.0)


class NacrfTransformer(NonautoregressiveTransformer):
    """The same with a CRF, which picks the best path."""

    def __init__(self, config: NacrfConfig) -> None:
        super().__init__(config)
        self.crf_layer = DynamicCRF(
            config.tgt_vocab, config.crf_lowrank_approx, config.crf_beam_approx
        )

    def choose(self, logits: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OnePassTranslator.choose`."""
        return self.crf_layer.choose(logits, canvas.ne(PAD))


class IterativeTransformer(NonautoregressiveTransformer):
    """The same, whose decoder reads its own output and improves it."""

    def __init__(self, config: IterativeConfig) -> None:
        super().__init__(config)
        self.refinement = Refinement.of(config.architecture, vars(config))

    @torch.no_grad()
    def forward(self, src_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Translate [B, S] int64 tokens in several passes; see :meth:`OnePassTranslator.forward`."""
        source, device = self.encode(src_tokens), src_tokens.device
        width = self.canvas_width(src_tokens.shape[1])
        canvas = self.initial_canvas(self.predict_length(source), width)

        def decode(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            given = torch.from_numpy(canvas).to(device)
            tokens, scores = self.choose(self.decode(given, source), given)
            return tokens.cpu().numpy(), scores.cpu().numpy()

        tokens, scores = self.refinement.run(decode, canvas.cpu().numpy())
        return torch.from_numpy(tokens).to(device), torch.from_numpy(scores).to(device)
