"""Reads a fairseq checkpoint's file without fairseq, and without running what is pickled in it.

A checkpoint is a dict with the weights under ``model`` and the options under ``args`` (an
``argparse.Namespace``, fairseq before 0.10.1) or ``cfg`` (omegaconf, later). PyTorch's restricted
unpickler reads it with a short allow-list; classes of omegaconf and fairseq become inert stand-ins that
keep their attributes and have no behaviour.
"""

import argparse
import collections
import dataclasses
import os
import typing
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train_model.cli import UserError
from train_model.models.quantized import is_quantizer


@dataclasses.dataclass(frozen=True)
class FairseqFile:
    """What the file of a checkpoint holds: fairseq's options, and the weights by their names."""

    options: argparse.Namespace
    weights: dict[str, Tensor]


def read_checkpoint(path: str | os.PathLike) -> FairseqFile:
    """Read the options and the weights of a checkpoint; floating-point weights become FP32.

    Raises:
        UserError: the file is missing, damaged, wants to run code or is not a fairseq checkpoint.
    """
    checkpoint = _read(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise UserError(f"{path} is not a fairseq checkpoint: it has no weights under 'model'")
    options = _options(checkpoint)
    if options is None:
        raise UserError(
            f"{path} has no options under 'args' or 'cfg'; save it with fairseq's trainer"
        )
    weights = {
        name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in checkpoint["model"].items()
    }
    return FairseqFile(options, weights)


def fill(model: nn.Module, weights: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Put the weights that were read from ``path`` into ``model``.

    Raises:
        UserError: the names or the shapes differ from the model's.
    """
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
