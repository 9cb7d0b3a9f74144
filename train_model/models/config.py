"""Network configurations: the options of a fairseq checkpoint that change the computation."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

PaddingPolicy = Literal["upstream", "masked"]
SIDES = ("encoder", "decoder")
MAX_POSITIONS = 1 << 16
_DIGEST = re.compile("[0-9a-f]{64}")


def check_heads(width: int, heads: int, where: str = "") -> None:
    """Raise ``ValueError`` unless ``width`` is a multiple of the heads; the message begins with ``where``."""
    if heads < 1 or width % heads:
        raise ValueError(f"{where}{width} channels do not divide into {heads} heads")


def is_training_option(name: str) -> bool:
    """Return whether an option matters only in training: dropout, and the parts of the loss."""
    return name.endswith(("dropout", "_loss_factor")) or name == "label_smoothing"


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Options that both networks have; names and defaults are those of fairseq's arguments.

    ``padding_policy`` is ours: ``upstream`` lets the bias of the convolution's inner projection leak
    from padded source positions into their neighbours, as the original does and as weights trained
    that way expect; ``masked`` zeroes them right before the convolution, so that a sentence's result
    does not depend on how much padding is next to it.

    ``int8_layers`` is ours too: the names of the linear layers that compute in INT8 (see
    ``train_model.models.quantized``). So are ``dictionaries``: the digests of the source and the target
    dictionary that the network was trained with, if they are known. ``made_from`` has the digests of the
    checkpoints that a file was made from, the nearest first (``train_model.origin``).

    Raises:
        ValueError: options that contradict each other, or that the network does not have.
    """

    architecture: ClassVar[str]  # fairseq's name of the network

    # Options of fairseq that change its computation and are not supported, with the value that is.
    fixed: ClassVar[dict[str, Any]] = {
        "adaptive_input": False,
        "adaptive_softmax_cutoff": None,
        "base_layers": 0,
        "char_inputs": False,
        "character_embeddings": False,
        "cross_self_attention": False,
        "decoder_xformers_att_config": None,
        "encoder_xformers_att_config": None,
        "no_cross_attention": False,
        "quant_noise_scalar": 0,
    }

    src_vocab: int
    tgt_vocab: int
    _: dataclasses.KW_ONLY
    encoder_embed_dim: int = 512
    encoder_ffn_embed_dim: int = 2048
    encoder_layers: int = 6
    encoder_learned_pos: bool = False
    encoder_normalize_before: bool = False
    decoder_ffn_embed_dim: int | None = None
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_learned_pos: bool = False
    decoder_normalize_before: bool = False
    max_source_positions: int = 1024
    max_target_positions: int = 1024
    share_all_embeddings: bool = False
    share_decoder_input_output_embed: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    left_pad_source: bool = True
    padding_policy: PaddingPolicy = "upstream"
    int8_layers: Sequence[str] = ()
    dictionaries: Sequence[str] = ()
    made_from: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._fill("decoder_ffn_embed_dim", self.encoder_ffn_embed_dim)
        if self.padding_policy not in ("upstream", "masked"):
            raise ValueError(f"padding_policy is upstream or masked, not {self.padding_policy!r}")
        if self.share_all_embeddings and self.src_vocab != self.tgt_vocab:
            raise ValueError("share_all_embeddings needs one dictionary for both sides")
        self._check_dropouts()
        for name in ("max_source_positions", "max_target_positions"):
            if not 1 <= getattr(self, name) <= MAX_POSITIONS:  # their table is computed, not loaded
                raise ValueError(f"{name} is 1 to {MAX_POSITIONS}, not {getattr(self, name)}")
        self._set("int8_layers", tuple(self.int8_layers))
        for name in ("dictionaries", "made_from"):
            self._set(name, tuple(getattr(self, name)))
            if not all(map(_DIGEST.fullmatch, getattr(self, name))):
                raise ValueError(f"{name} has something else than SHA-256")

    def width(self, side: str) -> int:
        """Channels of the ``encoder`` or the ``decoder``."""
        return self.encoder_embed_dim

    def has_final_norm(self, side: str) -> bool:
        """Whether a LayerNorm follows the last layer of the ``encoder`` or the ``decoder``."""
        return getattr(self, f"{side}_normalize_before")

    @property
    def padding_leaks(self) -> bool:
        """Whether a sentence's result depends on how much padding is next to it."""
        return False

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _fill(self, name: str, value: Any) -> None:
        """Set an option that depends on another, unless it was given."""
        if getattr(self, name) is None:
            self._set(name, value)

    def _check_dropouts(self) -> None:
        """Check that each is a probability; PyTorch checks most of them only when the network runs."""
        for field in dataclasses.fields(self):
            share = getattr(self, field.name)
            if field.name.endswith("dropout") and not (
                isinstance(share, int | float) and 0 <= share <= 1
            ):
                raise ValueError(f"{field.name} is a share from 0 to 1, not {share!r}")

    @classmethod
    def from_args(cls, args: argparse.Namespace, src_vocab: int, tgt_vocab: int) -> Self:
        """Read the options of fairseq's parser or of an old checkpoint; the others keep their defaults.

        Raises:
            ValueError: options that contradict each other, or that the network does not support.
        """
        for name, only in cls.fixed.items():
            value = getattr(args, name, None)
            if value is not None and value != only:
                raise ValueError(f"{name}={value!r} is not supported; leave it at {only!r}")
        fields = {field.name for field in dataclasses.fields(cls)}
        options = {
            name: value
            for name, value in vars(args).items()
            if name in fields and value is not None
        }
        if "decoder_embed_dim" not in fields:
            width = options.get("encoder_embed_dim", cls.encoder_embed_dim)
            if getattr(args, "decoder_embed_dim", None) not in (None, width):
                raise ValueError("encoder_embed_dim and decoder_embed_dim must be equal")
        return cls(**options | {"src_vocab": src_vocab, "tgt_vocab": tgt_vocab})

    @property
    def axis_limits(self) -> dict[str, int]:
        """Return the greatest size of each limited axis of an exported graph, see ``signatures``."""
        return {"src_len": self.max_source_positions, "canvas": self.max_target_positions}

    def to_args(self) -> argparse.Namespace:
        """Return the options as fairseq keeps them in a checkpoint."""
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }
        return argparse.Namespace(
            **{"arch": self.architecture, "decoder_embed_dim": self.encoder_embed_dim} | options
        )


@dataclasses.dataclass(frozen=True)
class ConvolutionConfig(NetworkConfig):
    """Options of networks with convolutions over time."""

    _: dataclasses.KW_ONLY
    encoder_kernel_size_list: Sequence[int] = (3, 7, 15, 31, 31, 31, 31)
    encoder_glu: bool = True
    decoder_kernel_size_list: Sequence[int] = (3, 7, 15, 31, 31, 31, 31)
    decoder_glu: bool = True
    conv_linear: bool = False
    weight_softmax: bool = True
    weight_dropout: float | None = None

    def __post_init__(self) -> None:
        self._fill("weight_dropout", self.attention_dropout)
        super().__post_init__()
        for side in SIDES:
            self._check_kernels(side)

    @property
    def padding_leaks(self) -> bool:
        """See :meth:`NetworkConfig.padding_leaks`: the bias of the inner projection leaks."""
        return self.padding_policy == "upstream" and self.conv_linear

    def _check_kernels(self, side: str) -> None:
        """Set one kernel size per layer; a single one is for all layers."""
        layers = getattr(self, f"{side}_layers")
        kernels = tuple(getattr(self, f"{side}_kernel_size_list"))
        if len(kernels) == 1:
            kernels *= layers
        if len(kernels) < layers:
            raise ValueError(f"{len(kernels)} kernel sizes for {layers} {side} layers")
        self._set(f"{side}_kernel_size_list", kernels[:layers])


@dataclasses.dataclass(frozen=True)
class ConvBlockConfig(ConvolutionConfig):
    """Options of networks that have a convolution block in place of self-attention."""

    _: dataclasses.KW_ONLY
    encoder_conv_dim: int | None = None
    encoder_attention_heads: int = 8
    encoder_conv_type: Literal["dynamic", "lightweight"] = "dynamic"
    decoder_conv_dim: int | None = None
    decoder_conv_type: Literal["dynamic", "lightweight"] = "dynamic"
    no_token_positional_embeddings: bool = False
    relu_dropout: float = 0.0
    input_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in SIDES:
            self._fill(f"{side}_conv_dim", self.width(side))
            self._check_convolution(side)

    def _check_convolution(self, side: str) -> None:
        heads, width = getattr(self, f"{side}_attention_heads"), getattr(self, f"{side}_conv_dim")
        check_heads(width, heads, f"{side}: ")
        conv_type = getattr(self, f"{side}_conv_type")
        if conv_type not in ("dynamic", "lightweight"):
            raise ValueError(f"{side}_conv_type is dynamic or lightweight, not {conv_type!r}")


@dataclasses.dataclass(frozen=True)
class AutoregressiveConfig(NetworkConfig):
    """Options of networks that give one token per step, see ``train_model.models.autoregressive``."""

    _: dataclasses.KW_ONLY
    decoder_embed_dim: int | None = None
    activation_fn: str = "relu"
    activation_dropout: float = 0.0
    layernorm_embedding: bool = False
    no_decoder_final_norm: bool = False
    no_scale_embedding: bool = False
    no_token_positional_embeddings: bool = False

    # Whether the decoder may be wider or narrower than the encoder.
    own_decoder_width: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._fill("decoder_embed_dim", self.encoder_embed_dim)
        super().__post_init__()
        if self.decoder_embed_dim != self.encoder_embed_dim and not self.own_decoder_width:
            raise ValueError("encoder_embed_dim and decoder_embed_dim must be equal")
        check_heads(self.decoder_embed_dim, self.decoder_attention_heads, "decoder: ")
        if self.share_all_embeddings and self.decoder_embed_dim != self.encoder_embed_dim:
            raise ValueError(
                "share_all_embeddings needs equal encoder_embed_dim and decoder_embed_dim"
            )

    def width(self, side: str) -> int:
        """See :meth:`NetworkConfig.width`."""
        return getattr(self, f"{side}_embed_dim")

    def has_final_norm(self, side: str) -> bool:
        """See :meth:`NetworkConfig.has_final_norm`."""
        return super().has_final_norm(side) and not (
            side == "decoder" and self.no_decoder_final_norm
        )

    @classmethod
    def from_args(cls, args: argparse.Namespace, src_vocab: int, tgt_vocab: int) -> Self:
        """See :meth:`NetworkConfig.from_args`."""
        given = {name: value for name, value in vars(args).items() if value is not None}
        # older checkpoints have the FFN's dropout under its former name
        dropout = given.get("activation_dropout") or given.get("relu_dropout", 0.0)
        config = super().from_args(
            argparse.Namespace(**given | {"activation_dropout": dropout}), src_vocab, tgt_vocab
        )
        for name in ("decoder_input_dim", "decoder_output_dim"):
            if given.get(name, config.decoder_embed_dim) != config.decoder_embed_dim:
                raise ValueError(f"{name} must be equal to decoder_embed_dim")
        return config


@dataclasses.dataclass(frozen=True)
class NatConfig(ConvBlockConfig):
    """Options of ``conv_crf_transformer``.

    A network with ``int8_layers`` lacks the convolutions' last projection: quantisation merges it into the
    following one.
    """

    architecture = "conv_crf_transformer"

    _: dataclasses.KW_ONLY
    encoder_layers: int = 7
    src_embedding_copy: bool = False
    pred_length_offset: bool = False
    sg_length_pred: bool = False
    crf_lowrank_approx: int = 32
    crf_beam_approx: int = 64
    label_smoothing: float = 0.0
    word_ins_loss_factor: float = 0.5
    length_loss_factor: float = 0.1

    @classmethod
    def from_args(cls, args: argparse.Namespace, src_vocab: int, tgt_vocab: int) -> Self:
        """See :meth:`NetworkConfig.from_args`."""
        no_norm = getattr(args, "no_decoder_final_norm", False)
        if getattr(args, "decoder_normalize_before", False) and no_norm:
            raise ValueError("no_decoder_final_norm is not supported with decoder_normalize_before")
        return super().from_args(args, src_vocab, tgt_vocab)
