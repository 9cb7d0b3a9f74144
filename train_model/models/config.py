"""What the network is built from: the options of a fairseq checkpoint that change its computation."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

PaddingPolicy = Literal["upstream", "masked"]


@dataclasses.dataclass(frozen=True)
class NatConfig:
    """Options of ``conv_crf_transformer``; names and defaults are those of its fairseq arguments.

    ``padding_policy`` is ours: ``upstream`` lets the bias of the convolution's inner projection leak
    from padded source positions into their neighbours, as the original does and as weights trained
    that way expect; ``masked`` zeroes them right before the convolution, so that a sentence's result
    does not depend on how much padding stands beside it.

    ``int8_layers`` is ours too: the names of the linear layers that compute in INT8 (see
    ``train_model.models.quantized``). A network that has any is without the convolutions' last
    projection, which quantisation merges into the one that follows.

    Raises:
        ValueError: options that contradict each other.
    """

    src_vocab: int
    tgt_vocab: int
    encoder_embed_dim: int = 512
    encoder_ffn_embed_dim: int = 2048
    encoder_conv_dim: int | None = None
    encoder_layers: int = 7
    encoder_attention_heads: int = 8
    encoder_kernel_size_list: Sequence[int] = (3, 7, 15, 31, 31, 31, 31)
    encoder_conv_type: Literal["dynamic", "lightweight"] = "dynamic"
    encoder_glu: bool = True
    encoder_learned_pos: bool = False
    encoder_normalize_before: bool = False
    decoder_ffn_embed_dim: int | None = None
    decoder_conv_dim: int | None = None
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_kernel_size_list: Sequence[int] = (3, 7, 15, 31, 31, 31)
    decoder_conv_type: Literal["dynamic", "lightweight"] = "dynamic"
    decoder_glu: bool = True
    decoder_learned_pos: bool = False
    decoder_normalize_before: bool = False
    conv_linear: bool = False
    weight_softmax: bool = True
    max_source_positions: int = 1024
    max_target_positions: int = 1024
    no_token_positional_embeddings: bool = False
    share_all_embeddings: bool = False
    share_decoder_input_output_embed: bool = False
    src_embedding_copy: bool = False
    pred_length_offset: bool = False
    sg_length_pred: bool = False
    crf_lowrank_approx: int = 32
    crf_beam_approx: int = 64
    dropout: float = 0.1
    attention_dropout: float = 0.0
    relu_dropout: float = 0.0
    input_dropout: float = 0.1
    weight_dropout: float | None = None
    label_smoothing: float = 0.0
    word_ins_loss_factor: float = 0.5
    length_loss_factor: float = 0.1
    left_pad_source: bool = True
    padding_policy: PaddingPolicy = "upstream"
    int8_layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        filled = {
            "encoder_conv_dim": self.encoder_embed_dim,
            "decoder_conv_dim": self.encoder_embed_dim,
            "decoder_ffn_embed_dim": self.encoder_ffn_embed_dim,
            "weight_dropout": self.attention_dropout,
        }
        for name, value in filled.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.padding_policy not in ("upstream", "masked"):
            raise ValueError(f"padding_policy is upstream or masked, not {self.padding_policy!r}")
        if self.share_all_embeddings and self.src_vocab != self.tgt_vocab:
            raise ValueError("share_all_embeddings needs one dictionary for both sides")
        object.__setattr__(self, "int8_layers", tuple(self.int8_layers))
        for side in ("encoder", "decoder"):
            self._check_side(side)

    def _check_side(self, side: str) -> None:
        layers = getattr(self, f"{side}_layers")
        kernels = tuple(getattr(self, f"{side}_kernel_size_list"))
        if len(kernels) == 1:
            kernels *= layers
        if len(kernels) < layers:
            raise ValueError(f"{len(kernels)} kernel sizes for {layers} {side} layers")
        object.__setattr__(self, f"{side}_kernel_size_list", kernels[:layers])
        heads, width = getattr(self, f"{side}_attention_heads"), getattr(self, f"{side}_conv_dim")
        if width % heads:
            raise ValueError(f"{side}: {width} channels do not divide into {heads} heads")
        conv_type = getattr(self, f"{side}_conv_type")
        if conv_type not in ("dynamic", "lightweight"):
            raise ValueError(f"{side}_conv_type is dynamic or lightweight, not {conv_type!r}")

    @classmethod
    def from_args(cls, args: argparse.Namespace, src_vocab: int, tgt_vocab: int) -> "NatConfig":
        """Take the options that fairseq's parser (or an old checkpoint) has; the rest keep defaults."""
        fields = {field.name for field in dataclasses.fields(cls)}
        options = {name: value for name, value in vars(args).items() if name in fields}
        width = options.get("encoder_embed_dim", cls.encoder_embed_dim)
        if getattr(args, "decoder_embed_dim", width) != width:
            raise ValueError("encoder_embed_dim and decoder_embed_dim must be equal")
        if options.get("decoder_normalize_before") and getattr(
            args, "no_decoder_final_norm", False
        ):
            raise ValueError("no_decoder_final_norm is not supported with decoder_normalize_before")
        return cls(**options | {"src_vocab": src_vocab, "tgt_vocab": tgt_vocab})

    def to_args(self) -> argparse.Namespace:
        """The options as fairseq keeps them in a checkpoint."""
        options: dict[str, Any] = dataclasses.asdict(self)
        for side in ("encoder", "decoder"):
            options[f"{side}_kernel_size_list"] = list(options[f"{side}_kernel_size_list"])
        options["int8_layers"] = list(options["int8_layers"])
        return argparse.Namespace(
            arch="conv_crf_transformer", decoder_embed_dim=self.encoder_embed_dim, **options
        )
