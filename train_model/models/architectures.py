"""The networks that the project runs: one entry per architecture of fairseq.

An entry has all differences between two architectures of one family. Differences between families are
registered once per stage: ``onnx_export.families`` has the exporters and the checks, ``trt_code.runners`` the
runners. A further architecture needs one file for the network and one entry here.

An entry gives functions by name, so that a program can look up a network's family without importing PyTorch.
"""

import argparse
import dataclasses
import pkgutil
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from train_model.models.config import NetworkConfig

Family = Literal["one-pass", "iterative", "autoregressive"]
Rule = Literal["replace", "mask-predict"]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The facts about a network that the stages need.

    Functions and classes are given as "module:name" inside ``train_model.models``.

    Attributes:
        name: fairseq's name, also in ``architecture`` of its configuration class.
        family: "one-pass" networks give the whole translation at once, on a canvas; "iterative" ones read
            their own output and improve it, several times; "autoregressive" ones give one token per step,
            and a search drives them.
        config_class: the options of a checkpoint that change the computation.
        network_class: the network, made from a configuration.
        upgrade_function: turns a state dict of an older version into one with today's names and shapes.
        fold_function: returns a copy of a network with its constants folded, for the export.
        merge_function: returns a copy of a network with adjacent linear layers merged, for INT8.
        unsure_function: for one-pass networks, see :meth:`unsure_scores`.
        refinement: for iterative networks, the rule of ``refinement.Refinement``.
        aliases: fairseq's other names for the same network with other defaults.
    """

    name: str
    family: Family
    config_class: str
    network_class: str
    upgrade_function: str | None = None
    fold_function: str | None = None
    merge_function: str | None = None
    unsure_function: str | None = None
    refinement: Rule | None = None
    aliases: tuple[str, ...] = ()

    def configure(
        self, args: argparse.Namespace, src_vocab: int, tgt_vocab: int
    ) -> "NetworkConfig":
        """Return the configuration for the options of a checkpoint.

        Raises:
            ValueError: the options contradict each other, or the network does not support one of them.
        """
        return _find(self.config_class).from_args(args, src_vocab, tgt_vocab)

    def build(self, config: "NetworkConfig") -> "nn.Module":
        """Return the network with random weights."""
        return _find(self.network_class)(config)

    def upgrade(self, weights: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return a state dict with today's names and shapes."""
        return _apply(self.upgrade_function, weights)

    def fold(self, model: "nn.Module") -> "nn.Module":
        """Return a copy of the network with its constants folded, for the export."""
        return _apply(self.fold_function, model)

    def merge(self, model: "nn.Module") -> "nn.Module":
        """Return a copy of the network with adjacent linear layers merged, for INT8."""
        return _apply(self.merge_function, model)

    def unsure_scores(
        self, model: "nn.Module", logits: "Tensor", tokens: "Tensor", tolerance: float
    ) -> "Tensor":
        """Return where [B, T] bool rounding by ``tolerance`` leaves the score of a token undefined.

        Args:
            model: a one-pass network.
            logits: the decoder's output [B, T, V].
            tokens: the network's choice [B, T].
        """
        if self.unsure_function is None:
            return tokens != tokens
        return _find(self.unsure_function)(model, logits, tokens, tolerance)


def _find(place: str) -> Any:
    return pkgutil.resolve_name(f"{__package__}.{place}")


def _apply(place: str | None, value: Any) -> Any:
    return value if place is None else _find(place)(value)


ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture(
            name="conv_crf_transformer",
            family="one-pass",
            config_class="config:NatConfig",
            network_class="conv_crf_transformer:ConvCrfTransformer",
            fold_function="fold:fold",
            merge_function="fold:merge_projections",
            unsure_function="dynamic_crf:unsure_scores",
        ),
        Architecture(
            name="cmlm_transformer",
            family="iterative",
            config_class="nonautoregressive_transformer:CmlmConfig",
            network_class="nonautoregressive_transformer:IterativeTransformer",
            upgrade_function="transformer:upgrade",
            refinement="mask-predict",
            aliases=("cmlm_transformer_wmt_en_de",),
        ),
        Architecture(
            name="iterative_nonautoregressive_transformer",
            family="iterative",
            config_class="nonautoregressive_transformer:IterativeConfig",
            network_class="nonautoregressive_transformer:IterativeTransformer",
            upgrade_function="transformer:upgrade",
            refinement="replace",
            aliases=("iterative_nonautoregressive_transformer_wmt_en_de",),
        ),
        Architecture(
            name="lightconv",
            family="autoregressive",
            config_class="lightconv:LightConvConfig",
            network_class="lightconv:LightConv",
            upgrade_function="layers:add_tap_axis",
            aliases=tuple(
                f"lightconv_{name}"
                for name in (
                    *(
                        "iwslt_de_en",
                        "wmt_en_de",
                        "wmt_en_de_big",
                        "wmt_en_fr_big",
                        "wmt_zh_en_big",
                    ),
                )
            ),
        ),
        Architecture(
            name="nonautoregressive_transformer",
            family="one-pass",
            config_class="nonautoregressive_transformer:NatTransformerConfig",
            network_class="nonautoregressive_transformer:NonautoregressiveTransformer",
            upgrade_function="transformer:upgrade",
            aliases=("nonautoregressive_transformer_wmt_en_de",),
        ),
        Architecture(
            name="nacrf_transformer",
            family="one-pass",
            config_class="nonautoregressive_transformer:NacrfConfig",
            network_class="nonautoregressive_transformer:NacrfTransformer",
            upgrade_function="transformer:upgrade",
            unsure_function="dynamic_crf:unsure_scores",
        ),
        Architecture(
            name="transformer",
            family="autoregressive",
            config_class="transformer:TransformerConfig",
            network_class="transformer:Transformer",
            upgrade_function="transformer:upgrade",
            aliases=tuple(
                f"transformer_{name}"
                for name in (
                    *("iwslt_de_en", "wmt_en_de", "tiny", "wmt_en_de_big", "wmt_en_de_big_t2t"),
                    *("vaswani_wmt_en_de_big", "vaswani_wmt_en_fr_big"),
                )
            ),
        ),
        Architecture(
            name="transformer_multibranch_v2",
            family="autoregressive",
            config_class="multibranch_config:MultibranchConfig",
            network_class="transformer_multibranch_v2:TransformerMultibranch",
            upgrade_function="layers:add_tap_axis",
            aliases=tuple(
                f"transformer_multibranch_v2_{name}"
                for name in ("iwslt_de_en", "wmt_en_de", "wmt_en_de_big", "wmt_en_de_big_t2t")
            ),
        ),
    )
}
ALIASES = {alias: entry.name for entry in ARCHITECTURES.values() for alias in entry.aliases}


def architecture_of(model: "nn.Module") -> Architecture:
    """Return the entry of a network that ``Architecture.build`` made."""
    return ARCHITECTURES[model.config.architecture]
