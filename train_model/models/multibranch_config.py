"""Configuration of a Lite Transformer: the checkpoint's options that change the computation."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from train_model.models.config import SIDES, AutoregressiveConfig, ConvolutionConfig
from train_model.models.multibranch import Branch


@dataclasses.dataclass(frozen=True)
class MultibranchConfig(ConvolutionConfig, AutoregressiveConfig):
    """Options of ``transformer_multibranch_v2``."""

    architecture = "transformer_multibranch_v2"

    _: dataclasses.KW_ONLY
    encoder_branch_type: Sequence[str]
    decoder_branch_type: Sequence[str]

    fixed: ClassVar[dict[str, Any]] = AutoregressiveConfig.fixed | {
        "activation_fn": "relu",
        "no_decoder_final_norm": False,
        "no_token_positional_embeddings": False,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in SIDES:
            self._check_branches(side)

    def _check_branches(self, side: str) -> None:
        self._set(f"{side}_branch_type", tuple(getattr(self, f"{side}_branch_type")))
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
    def from_args(cls, args: argparse.Namespace, src_vocab: int, tgt_vocab: int) -> Self:
        """See :meth:`NetworkConfig.from_args`."""
        for side in SIDES:
            if getattr(args, f"{side}_branch_type", None) is None:
                raise ValueError(
                    f"{side}_branch_type is missing, e.g. attn:1:256:4 dynamic:default:256:4"
                )
        return super().from_args(args, src_vocab, tgt_vocab)
