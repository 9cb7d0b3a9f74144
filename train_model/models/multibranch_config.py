"""What a Lite Transformer is built from: the options of its checkpoint that change the computation."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Self

from train_model.models.config import SIDES, NetworkConfig, check_heads
from train_model.models.multibranch import Branch

# Options of the original that this network lacks, with the only value that it supports.
_FIXED = {
    "activation_fn": "relu",
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "no_decoder_final_norm": False,
    "no_token_positional_embeddings": False,
}


@dataclasses.dataclass(frozen=True)
class MultibranchConfig(NetworkConfig):
    """Options of ``transformer_multibranch_v2``.

    Raises:
        ValueError: options that contradict each other or that this network does not have.
    """

    architecture = "transformer_multibranch_v2"

    _: dataclasses.KW_ONLY
    encoder_branch_type: Sequence[str]
    decoder_branch_type: Sequence[str]
    activation_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.encoder_embed_dim, self.decoder_attention_heads)
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
        given = {name: value for name, value in vars(args).items() if value is not None}
        for name, only in _FIXED.items():
            if given.get(name, only) != only:
                raise ValueError(f"{name}={given[name]!r} is not supported; leave it at {only!r}")
        for side in SIDES:
            if f"{side}_branch_type" not in given:
                raise ValueError(
                    f"{side}_branch_type is missing, e.g. attn:1:256:4 dynamic:default:256:4"
                )
        # older checkpoints have the dropout inside the FFN under its former name
        dropout = given.get("activation_dropout") or given.get("relu_dropout", 0.0)
        renamed = argparse.Namespace(**given | {"activation_dropout": dropout})
        return super().from_args(renamed, src_vocab, tgt_vocab)
