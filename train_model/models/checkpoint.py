"""Loads and writes the project's networks as fairseq checkpoints."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train_model.cli import UserError, atomic_path
from train_model.model_yaml import WEIGHTS_ALONE, described
from train_model.models.architectures import ALIASES, ARCHITECTURES
from train_model.models.config import SIDES
from train_model.models.fairseq_file import match_weights, read_checkpoint, shapes_of
from train_model.models.quantized import is_quantizer
from train_model.models.safetensors_file import read_safetensors
from train_model.origin import digest_of


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode with its weights in FP32, its configuration and architecture.

    ``options`` are fairseq's, among them those that do not change the computation, such as the languages.
    """

    model: nn.Module
    config: Any
    kind: str
    options: argparse.Namespace


def load_checkpoint(path: str | os.PathLike) -> Loaded:
    """Rebuild the network of a checkpoint from its options and weights.

    A .pt file is fairseq's and holds its options; those of a .safetensors file are in the model.yaml next to
    it. The padding policy and the dictionaries' digests there override the checkpoint's.

    Raises:
        UserError: the file is missing, damaged, wants to run code, is not a fairseq checkpoint, is of
            another architecture, or its weights do not fit the network that its options describe.
    """
    alone = Path(path).suffix == WEIGHTS_ALONE
    file = read_safetensors(Path(path)) if alone else read_checkpoint(path)
    kind = ALIASES.get(file.architecture, file.architecture)
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{path} is of architecture {kind!r}; this project runs {known}")
    architecture, sizes = ARCHITECTURES[kind], [file.symbols(side) for side in SIDES]
    try:
        config = architecture.configure(file.options, *sizes)
        config = dataclasses.replace(config, **described(Path(path), kind))
        expected = shapes_of(lambda: architecture.build(config))
        upgraded = architecture.upgrade(file.weights)
    except _MISFITS as error:
        raise UserError(f"{path} has options that do not fit: {error}") from error
    weights = match_weights(upgraded, expected, path)
    model = architecture.build(config)
    model.load_state_dict(weights)
    return Loaded(model.eval(), config, kind, file.options)


def load_marked(path: Path) -> Loaded:
    """As :func:`load_checkpoint`, for what is made from it: ``made_from`` begins with this checkpoint."""
    # before the load: if the file is replaced in between, what is made has the old mark and is refused
    made_from = [digest_of(path)] if path.is_file() else []
    loaded = load_checkpoint(path)
    config = dataclasses.replace(loaded.config, made_from=[*made_from, *loaded.config.made_from])
    loaded.model.config = config
    return dataclasses.replace(loaded, config=config)


# The errors that contradictory options raise while a network is built.
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


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
        except RuntimeError as error:  # PyTorch's writer reports a full disk in this way
            raise UserError(f"cannot write {path}; is there room on its disk?") from error
