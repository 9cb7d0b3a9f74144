"""Reads and writes fairseq checkpoints without fairseq, and without running what is pickled in them.

A checkpoint is a dict with the weights under ``model`` and the options under ``args`` (an
``argparse.Namespace``, fairseq before 0.10.1) or ``cfg`` (omegaconf, later). PyTorch's restricted
unpickler reads it with a short allow-list; classes of omegaconf and fairseq become inert stand-ins that
keep their attributes and have no behaviour.
"""

import argparse
import collections
import dataclasses
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train_model.cli import UserError, atomic_path
from train_model.models.config import NatConfig
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.quantized import is_quantizer
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch


class _Inert:
    """Stands in for a pickled class: keeps the state, does nothing."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def _stand_in(name: str) -> tuple[type, str]:
    return type(name.rpartition(".")[2], (_Inert,), {}), name


_CORES = ("core", "_core")  # NumPy 1 and 2

_ALLOWED = [
    argparse.Namespace,
    collections.defaultdict,
    collections.OrderedDict,
    dict,
    int,
    list,
    (typing.Any, "typing.Any"),
    # meters keep their sums as NumPy arrays when validation computes BLEU
    *(
        (np._core.multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct")
        for core in _CORES
    ),
    *((np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in _CORES),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.int64)),
    type(np.dtype(np.float64)),
    *map(
        _stand_in,
        [
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            "omegaconf.dictconfig.DictConfig",
            "omegaconf.listconfig.ListConfig",
            "omegaconf.nodes.AnyNode",
            "omegaconf.nodes.StringNode",
            "omegaconf.nodes.IntegerNode",
            "omegaconf.nodes.FloatNode",
            "omegaconf.nodes.BooleanNode",
            "fairseq.meters.AverageMeter",
            "fairseq.meters.StopwatchMeter",
            "fairseq.meters.TimeMeter",
            "fairseq.logging.meters.AverageMeter",
            "fairseq.logging.meters.StopwatchMeter",
            "fairseq.logging.meters.TimeMeter",
            "fairseq.logging.meters.MetersDict",
            # IWSLT recipes of mit-han-lab leave a function for initial weights among the options
            "fairseq.models.transformer_multibranch_v2.ratio_xavier_uniform_",
        ],
    ),
]


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
    checkpoint = _read(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise UserError(f"{path} is not a fairseq checkpoint: it has no weights under 'model'")
    args = _options(checkpoint)
    if args is None:
        raise UserError(
            f"{path} has no options under 'args' or 'cfg'; save it with fairseq's trainer"
        )
    kind = getattr(args, "arch", None) or getattr(args, "_name", None)
    kind = _ALIASES.get(kind, kind)
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{path} is of architecture {kind!r}; this project runs {known}")
    weights = {
        name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in checkpoint["model"].items()
    }
    try:
        config = ARCHITECTURES[kind].configure(args, weights)
        model = ARCHITECTURES[kind].build(config)
    except KeyError as error:
        raise UserError(f"{path} lacks the weights {error}") from error
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} has options that do not fit: {str(error)[:200]}") from error
    _fill(model, ARCHITECTURES[kind].upgrade(weights), path)
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


def _read(path: str | os.PathLike) -> Any:
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}; train one (make train) or download it")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "Unsupported global" in str(error) or "WeightsUnpickler error" in str(error):
            name = str(error).partition("GLOBAL ")[2].split(" ")[0] or "code"
            raise UserError(
                f"{path} is refused: it wants to load {name}, which no fairseq checkpoint needs"
            ) from error
        raise UserError(f"{path} is damaged or no checkpoint; get it again") from error
    except Exception as error:  # a damaged archive fails in any of a dozen ways
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(f"{path} is damaged or no checkpoint; get it again") from error


def _options(checkpoint: dict[str, Any]) -> argparse.Namespace | None:
    if isinstance(checkpoint.get("args"), argparse.Namespace):
        return checkpoint["args"]
    options: dict[str, Any] = {}
    cfg = _plain(checkpoint.get("cfg"))
    if not isinstance(cfg, dict):
        return None
    for group in ("task", "model"):  # the model's own word counts where both have one
        if isinstance(cfg.get(group), dict):
            options |= cfg[group]
    return argparse.Namespace(**options) if options else None


def _plain(node: Any) -> Any:
    """omegaconf's tree as dicts, lists and values."""
    if isinstance(node, argparse.Namespace):
        return vars(node)
    if isinstance(node, _Inert):
        return _plain(vars(node).get("_content", vars(node).get("_val")))
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return node


def _fill(model: nn.Module, weights: dict[str, Tensor], path: str | os.PathLike) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    if missing or unknown:
        problem, names = ("lacks", missing) if missing else ("has unknown", unknown)
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"{path} {problem} weights {', '.join(names[:3])}{rest}")
    for name, value in expected.items():
        got = weights[name]
        if not isinstance(got, Tensor) or got.shape != value.shape:
            shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            raise UserError(f"{path}: {name} is {shape}, its options ask for {tuple(value.shape)}")
        if is_quantizer(name) and not (got.isfinite() & (got > 0)).all():
            raise UserError(f"{path}: {name} is no range of numbers; calibrate again (make ptq)")
    model.load_state_dict(weights)
