"""Reads a fairseq checkpoint's file without fairseq, and without running what is pickled in it.

A checkpoint is a dict with the weights under ``model`` and the options under ``args`` (an
``argparse.Namespace``, fairseq before 0.10.1) or ``cfg`` (omegaconf, later). PyTorch's restricted
unpickler reads it with a short allow-list; classes of omegaconf and fairseq become inert stand-ins that
keep their attributes and have no behaviour.

A file of a few kilobytes can describe a network of any size. So this module allocates no more memory than
the file has bytes until the weights are known to fit the network (:func:`match_weights`).
"""

import argparse
import collections
import dataclasses
import os
import typing
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from train_model.cli import UserError
from train_model.models.quantized import is_quantizer


@dataclasses.dataclass(frozen=True)
class FairseqFile:
    """The content of a checkpoint's file.

    Attributes:
        path: path of the file.
        options: fairseq's options.
        weights: strided tensors by name, on the CPU, each stored completely, in the file's dtypes.
    """

    path: str
    options: argparse.Namespace
    weights: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        """fairseq's name of the network; raises ``UserError`` if the options have none."""
        for name in ("arch", "_name"):
            value = getattr(self.options, name, None)
            if isinstance(value, str) and value:
                return value
        raise UserError(f"{self.path} names no architecture in its options")

    def symbols(self, side: str) -> int:
        """Return the size of the ``encoder``'s or the ``decoder``'s dictionary.

        Raises:
            UserError: the side has no embedding.
        """
        name = f"{side}.embed_tokens.weight"
        if name not in self.weights:
            raise UserError(f"{self.path} lacks the weights {name!r}")
        if self.weights[name].dim() != 2:
            raise UserError(f"{self.path}: {name} is not a matrix")
        return len(self.weights[name])


def read_checkpoint(path: str | os.PathLike) -> FairseqFile:
    """Read the options and the weights of a checkpoint.

    Raises:
        UserError: the file is missing, damaged, wants to run code, is not a fairseq checkpoint, or declares
            more data than it holds.
    """
    checkpoint = _read(path)
    stored = dict.get(checkpoint, "model") if isinstance(checkpoint, dict) else None
    if not isinstance(stored, dict):
        raise UserError(f"{path} is not a fairseq checkpoint: it has no weights under 'model'")
    options = _options(checkpoint, path)
    if options is None:
        raise UserError(
            f"{path} has no options under 'args' or 'cfg'; save it with fairseq's trainer"
        )
    # dict's own method: an attribute of a pickled OrderedDict can shadow it
    weights = {name: _tensor(name, value, path) for name, value in dict.items(stored)}
    for name in ("encoder_layers", "decoder_layers"):  # modules take memory on any device
        layers = getattr(options, name, 0)
        if isinstance(layers, int) and layers > max(len(weights), 100):
            raise UserError(f"{path} asks for {layers} {name} and has {len(weights)} weights")
    if weights and all(name.startswith(_WRAPPED) for name in weights):
        weights = {name.removeprefix(_WRAPPED): value for name, value in weights.items()}
    return FairseqFile(str(path), options, weights)


_WRAPPED = "module."  # in front of the names that torch's DataParallel saves


def _tensor(name: object, value: object, path: str | os.PathLike) -> Tensor:
    """Return the tensor without pickled attributes; refuses tensors that are not dense and complete."""
    if not isinstance(name, str):
        raise UserError(f"{path}: the name of a weight is {str(name)[:40]!r}, which is not text")
    if not isinstance(value, Tensor):
        raise UserError(f"{path}: {name} is not a tensor but {type(value).__name__}")
    value = Tensor.detach(value)
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        kind = f"{value.layout} of {value.dtype} on {value.device}".replace("torch.", "")
        raise UserError(f"{path}: {name} is {kind}; save dense weights from the CPU")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(
            f"{path}: {name} of shape {tuple(value.shape)} has fewer values than elements"
        )
    return value


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Return the state dict of the network that ``build`` makes, on the device ``meta``, without memory."""
    with torch.device("meta"), _Uninitialised():
        return build().state_dict()


class _Uninitialised(TorchFunctionMode):
    """Skips random initialisation, for which PyTorch loads hundreds of modules on the device ``meta``."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def match_weights(
    weights: dict[str, Tensor], expected: dict[str, Tensor], path: str | os.PathLike
) -> dict[str, Tensor]:
    """Return ``weights`` under today's names, in FP32, for a network with the state dict ``expected``.

    Args:
        weights: as :func:`read_checkpoint` gives them.
        expected: names and shapes; the tensors may be on the device ``meta``.
        path: of the checkpoint, for messages.

    Raises:
        UserError: the names, shapes or types differ, or a weight is not a finite number.
    """
    weights = _renamed(weights, expected)
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    if missing or unknown:
        problem, names = ("lacks", missing) if missing else ("has unknown", unknown)
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"{path} {problem} weights {', '.join(names[:3])}{rest}")
    for name, value in expected.items():
        got = weights[name]
        if got.shape != value.shape:
            raise UserError(
                f"{path}: {name} is {tuple(got.shape)}, its options ask for {tuple(value.shape)}"
            )
        if value.is_floating_point() != got.is_floating_point():
            raise UserError(f"{path}: {name} is of type {got.dtype}, not {value.dtype}")
    return {name: _finite(name, value, path) for name, value in weights.items()}


def _finite(name: str, value: Tensor, path: str | os.PathLike) -> Tensor:
    if name.endswith("_float_tensor"):  # fairseq uses its type only and never writes a value
        return torch.zeros_like(value, dtype=torch.float32)
    if not value.is_floating_point():
        return value
    value = value.float()
    if is_quantizer(name) and not (value.isfinite() & (value > 0)).all():
        raise UserError(f"{path}: {name} is not a range of numbers; calibrate again (make ptq)")
    if not value.isfinite().all():
        raise UserError(
            f"{path}: {name} has values that are infinite or not numbers; "
            "take a checkpoint from before the training diverged"
        )
    return value


def _renamed(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring a state dict of an older or newer fairseq to the names of this project.

    Entries without information (``version``, ``_float_tensor``) come and go between versions.
    """
    found = {}
    for name, value in weights.items():
        stem, _, last = name.rpartition(".")
        if name in expected:
            found[name] = value
        elif last in ("in_proj_weight", "in_proj_bias") and value.dim() and len(value) % 3 == 0:
            # one matrix for the three projections of an attention, before fairseq 0.9
            for part, projected in zip("qkv", value.chunk(3), strict=True):
                found[f"{stem}.{part}_proj.{last.removeprefix('in_proj_')}"] = projected
        elif last not in _EMPTY and not name.endswith("embed_positions.weights"):
            found[name] = value
    for name, value in expected.items():
        stem, _, last = name.rpartition(".")
        if last in _EMPTY and f"{stem}.weight" not in found:  # else a learned table
            found.setdefault(name, torch.zeros(value.shape))
    return found


_EMPTY = ("version", "_float_tensor")


class _Inert:
    """Replaces a pickled class: keeps the state, without behaviour."""

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
    *(
        type(np.dtype(kind))
        for kind in ("?", *np.typecodes["AllInteger"], *np.typecodes["AllFloat"])
    ),
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
    damaged = UserError(f"{path} is damaged or no checkpoint; get it again")
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"\x1f\x8b":
        raise UserError(f"{path} is compressed by gzip; unpack it with gunzip")
    if start[:1] != b"\x80" and start != b"PK":  # neither a pickle nor a zip archive of PyTorch
        raise damaged
    _check_archive(Path(path))
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle's protocols and sparse tensors
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "Unsupported global" in str(error) or "WeightsUnpickler error" in str(error):
            name = str(error).partition("GLOBAL ")[2].split(" ")[0] or "code"
            raise UserError(
                f"{path} is refused: it wants to load {name}, which no fairseq checkpoint needs"
            ) from error
        raise damaged from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises many types of errors
        if isinstance(error, OSError) and error.filename:
            raise
        raise damaged from error


def _check_archive(path: Path) -> None:
    """Refuse a compressed zip archive, which may unpack to any size; PyTorch does not compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return  # an older form, or damaged, which torch.load reports
    compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if compressed or sum(record.file_size for record in records) > path.stat().st_size:
        raise UserError(f"{path} is a compressed archive; save it again with torch.save")


def _options(checkpoint: dict[str, Any], path: str | os.PathLike) -> argparse.Namespace | None:
    args = dict.get(checkpoint, "args")
    if isinstance(args, argparse.Namespace):
        return args
    try:
        cfg = _plain(dict.get(checkpoint, "cfg"))
    except RecursionError:
        raise UserError(f"{path} is damaged: its options are nested without end") from None
    if not isinstance(cfg, dict):
        return None
    options: dict[str, Any] = {}
    for group in ("task", "model"):  # the model's value counts if both have one
        if isinstance(cfg.get(group), dict):
            options |= {name: value for name, value in cfg[group].items() if isinstance(name, str)}
    tokenizer = cfg.get("tokenizer")  # under ``args`` it is a name, and its options are separate
    if isinstance(tokenizer, dict):
        own = {name: value for name, value in tokenizer.items() if isinstance(name, str)}
        options = {**own, **options, "tokenizer": own.get("_name")}
    return argparse.Namespace(**options) if options else None


_MAX_DEPTH = 50


def _plain(node: Any, depth: int = 0, known: dict[int, Any] | None = None) -> Any:
    """Convert omegaconf's tree to dicts, lists and values.

    ``known`` has the results by the nodes' ids, so a shared node is converted once.

    Raises:
        RecursionError: the tree is deeper than ``_MAX_DEPTH``, or has a cycle.
    """
    known = {} if known is None else known
    if depth > _MAX_DEPTH:
        raise RecursionError
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, argparse.Namespace):
        result = vars(node)
    elif isinstance(node, _Inert):
        state = vars(node)
        result = _plain(state.get("_content", state.get("_val")), depth + 1, known)
    elif isinstance(node, dict):
        result = {key: _plain(value, depth + 1, known) for key, value in dict.items(node)}
    elif isinstance(node, list | tuple):
        result = [_plain(value, depth + 1, known) for value in node]
    else:
        return node
    known[id(node)] = result
    return result
