"""Loads and writes the project's networks as fairseq checkpoints."""

import argparse
import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from train_model.cli import UserError, atomic_path
from train_model.models.config import NatConfig
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.fairseq_file import fill, read_checkpoint
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.quantized import is_quantizer
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How a checkpoint of one architecture becomes a network."""

    configure: Callable[[argparse.Namespace, dict[str, Tensor]], Any]
    build: Callable[[Any], nn.Module]
    upgrade: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda weights: weights


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode with its weights in FP32, its configuration and architecture."""

    model: nn.Module
    config: Any
    kind: str


def _configure_nat(args: argparse.Namespace, weights: dict[str, Tensor]) -> NatConfig:
    return NatConfig.from_args(
        args,
        src_vocab=weights["encoder.embed_tokens.weight"].shape[0],
        tgt_vocab=weights["decoder.embed_tokens.weight"].shape[0],
    )


def _configure_multibranch(
    args: argparse.Namespace, weights: dict[str, Tensor]
) -> MultibranchConfig:
    return MultibranchConfig.from_args(
        args,
        src_vocab=weights["encoder.embed_tokens.weight"].shape[0],
        tgt_vocab=weights["decoder.embed_tokens.weight"].shape[0],
    )


def _upgrade_multibranch(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Trained with mit-han-lab's CUDA module, a lightweight convolution's taps have no middle axis."""
    return {
        name: value[:, None] if _TAPS.search(name) and value.dim() == 2 else value
        for name, value in weights.items()
    }


_TAPS = re.compile(r"\.branches\.\d+\.weight$")
ARCHITECTURES = {
    "conv_crf_transformer": Architecture(_configure_nat, ConvCrfTransformer),
    "transformer_multibranch_v2": Architecture(
        _configure_multibranch, TransformerMultibranch, _upgrade_multibranch
    ),
}
# Named architectures of mit-han-lab that differ in their defaults alone, which a checkpoint records.
_ALIASES = {
    f"transformer_multibranch_v2_{name}": "transformer_multibranch_v2"
    for name in ("iwslt_de_en", "wmt_en_de", "wmt_en_de_big", "wmt_en_de_big_t2t")
}


def load_checkpoint(path: str | os.PathLike) -> Loaded:
    """Rebuild the network of a fairseq checkpoint from its own options and weights.

    Raises:
        UserError: the file is missing, damaged, wants to run code, is not a fairseq checkpoint, is of
            another architecture, or its weights do not fit the network that its options describe.
    """
    file = read_checkpoint(path)
    args, weights = file.options, file.weights
    kind = getattr(args, "arch", None) or getattr(args, "_name", None)
    kind = _ALIASES.get(kind, kind)
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{path} is of architecture {kind!r}; this project runs {known}")
    try:
        config = ARCHITECTURES[kind].configure(args, weights)
        model = ARCHITECTURES[kind].build(config)
    except KeyError as error:
        raise UserError(f"{path} lacks the weights {error}") from error
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} has options that do not fit: {str(error)[:200]}") from error
    fill(model, ARCHITECTURES[kind].upgrade(weights), path)
    return Loaded(model.eval(), config, kind)


def save_checkpoint(
    path: str | os.PathLike, model: nn.Module, config: Any, dtype: torch.dtype = torch.float32
) -> None:
    """Write ``model`` in fairseq's form, atomically; ``dtype`` float16 halves the file.

    Raises:
        UserError: it cannot be written there.
    """

    def stored(name: str, value: Tensor) -> torch.dtype:
        exact = is_quantizer(name) or not value.is_floating_point()
        return value.dtype if exact else dtype

    weights = {
        name: value.detach().cpu().to(stored(name, value))
        for name, value in model.state_dict().items()
    }
    with atomic_path(path) as temporary:
        try:
            torch.save({"args": config.to_args(), "model": weights}, temporary)
        except RuntimeError as error:  # so PyTorch's writer tells of a full disk
            raise UserError(f"cannot write {path}; is there room on its disk?") from error
