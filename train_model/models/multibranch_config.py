"""What a Lite Transformer is built from: the options of its checkpoint that change the computation."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from train_model.models.config import PaddingPolicy
from train_model.models.multibranch import Branch

_KERNEL_SIZES = (3, 7, 15, 31, 31, 31, 31)
# Options of the original that this network does not have, with the value that it stands for.
_FIXED = {
    "activation_fn": "relu",
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "no_decoder_final_norm": False,
    "no_token_positional_embeddings": False,
}


@dataclasses.dataclass(frozen=True)
class MultibranchConfig:
    """Options of ``transformer_multibranch_v2``; names and defaults are those of its fairseq arguments.

    ``padding_policy`` is ours, see :class:`train_model.models.config.NatConfig`.

    Raises:
        ValueError: options that contradict each other or that this network does not have.
    """

    src_vocab: int
    tgt_vocab: int
    encoder_branch_type: Sequence[str]
    decoder_branch_type: Sequence[str]
    encoder_embed_dim: int = 512
    encoder_ffn_embed_dim: int = 2048
    encoder_layers: int = 6
    encoder_kernel_size_list: Sequence[int] = _KERNEL_SIZES
    encoder_glu: bool = True
    encoder_learned_pos: bool = False
    encoder_normalize_before: bool = False
    decoder_ffn_embed_dim: int | None = None
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_kernel_size_list: Sequence[int] = _KERNEL_SIZES
    decoder_glu: bool = True
    decoder_learned_pos: bool = False
    decoder_normalize_before: bool = False
    conv_linear: bool = False
    weight_softmax: bool = True
    share_all_embeddings: bool = False
    share_decoder_input_output_embed: bool = False
    max_source_positions: int = 1024
    max_target_positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    weight_dropout: float | None = None
    left_pad_source: bool = True
    padding_policy: PaddingPolicy = "upstream"

    def __post_init__(self) -> None:
        if self.decoder_ffn_embed_dim is None:
            object.__setattr__(self, "decoder_ffn_embed_dim", self.encoder_ffn_embed_dim)
        if self.weight_dropout is None:
            object.__setattr__(self, "weight_dropout", self.attention_dropout)
        if self.padding_policy not in ("upstream", "masked"):
            raise ValueError(f"padding_policy is upstream or masked, not {self.padding_policy!r}")
        if self.share_all_embeddings and self.src_vocab != self.tgt_vocab:
            raise ValueError("share_all_embeddings needs one dictionary for both sides")
        if self.encoder_embed_dim % self.decoder_attention_heads:
            raise ValueError(
                f"{self.encoder_embed_dim} channels do not divide into "
                f"{self.decoder_attention_heads} heads"
            )
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
        names = tuple(getattr(self, f"{side}_branch_type"))
        object.__setattr__(self, f"{side}_branch_type", names)
        widths = [branch.channels for branch in self.branches(side)]
        if sum(widths) != self.encoder_embed_dim:
            raise ValueError(
                f"{side} branches of {' + '.join(map(str, widths)) or 'no'} channels do not make up "
                f"{self.encoder_embed_dim}"
            )

    def branches(self, side: str) -> tuple[Branch, ...]:
        """The branches of the ``encoder`` or the ``decoder``."""
        return tuple(map(Branch.parse, getattr(self, f"{side}_branch_type")))

    @classmethod
    def from_args(
        cls, args: argparse.Namespace, src_vocab: int, tgt_vocab: int
    ) -> "MultibranchConfig":
        """Take the options that fairseq's parser (or an old checkpoint) has; the rest keep defaults."""
        fields = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in vars(args).items() if value is not None}
        for name, only in _FIXED.items():
            if given.get(name, only) != only:
                raise ValueError(f"{name}={given[name]!r} is not supported; leave it at {only!r}")
        options = {name: value for name, value in given.items() if name in fields}
        for side in ("encoder", "decoder"):
            if f"{side}_branch_type" not in options:
                raise ValueError(
                    f"{side}_branch_type is missing, e.g. attn:1:256:4 dynamic:default:256:4"
                )
        width = options.get("encoder_embed_dim", cls.encoder_embed_dim)
        if given.get("decoder_embed_dim", width) != width:
            raise ValueError("encoder_embed_dim and decoder_embed_dim must be equal")
        # older checkpoints have the dropout inside the FFN under its former name
        options["activation_dropout"] = given.get("activation_dropout") or given.get(
            "relu_dropout", cls.activation_dropout
        )
        return cls(**options | {"src_vocab": src_vocab, "tgt_vocab": tgt_vocab})

    def to_args(self) -> argparse.Namespace:
        """The options as fairseq keeps them in a checkpoint."""
        options: dict[str, Any] = dataclasses.asdict(self)
        for name in ("kernel_size_list", "branch_type"):
            for side in ("encoder", "decoder"):
                options[f"{side}_{name}"] = list(options[f"{side}_{name}"])
        return argparse.Namespace(
            arch="transformer_multibranch_v2", decoder_embed_dim=self.encoder_embed_dim, **options
        )
