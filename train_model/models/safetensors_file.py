"""Reads weights from a .safetensors file; the network's options are in the model.yaml next to it."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from train_model.cli import UserError, atomic_path
from train_model.model_yaml import read_options
from train_model.models.fairseq_file import FairseqFile
from train_model.models.int8_rows import pack_rows, unpack_rows


def read_safetensors(path: Path) -> FairseqFile:
    """Read the weights and their options.

    Raises:
        UserError: the file is missing or damaged, or no model.yaml next to it has the options.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; import one (make import)")
    options = argparse.Namespace(**read_options(path))
    try:
        weights = unpack_rows(load_file(path))
        with safetensors.safe_open(path, "pt") as file:
            names = file.metadata() or {}
        weights |= {alias: weights[name] for alias, name in names.items() if name in weights}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file; get it again") from error
    return FairseqFile(str(path), options, weights)


@contextlib.contextmanager
def atomic_safetensors(path: Path) -> Iterator[Path]:
    """Yield a temporary path as ``atomic_path`` does; ``safetensors`` has an error type of its own.

    Raises:
        UserError: the file cannot be written there.
    """
    with atomic_path(path) as temporary:
        try:
            yield temporary
        except safetensors.SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}") from error


def save_safetensors(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights, atomically; tensors that share memory are written once each.

    Raises:
        UserError: the file cannot be written there.
    """
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    with atomic_safetensors(path) as temporary:
        save_file(copies, temporary)


def save_compact(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights with large matrices as INT8 rows, atomically; :func:`read_safetensors` reads them.

    Raises:
        UserError: the file cannot be written there.
    """
    packed, aliases = pack_rows({name: value.detach().cpu() for name, value in weights.items()})
    with atomic_safetensors(path) as temporary:
        save_file({n: v.contiguous() for n, v in packed.items()}, temporary, metadata=aliases)
