"""Loads and writes the project's networks as fairseq checkpoints."""

import dataclasses
import os
from typing import Any

import torch
from torch import Tensor, nn

from train_model.cli import UserError, atomic_path
from train_model.models.architectures import ALIASES, ARCHITECTURES
from train_model.models.config import SIDES
from train_model.models.fairseq_file import fill, read_checkpoint
from train_model.models.quantized import is_quantizer


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode with its weights in FP32, its configuration and architecture."""

    model: nn.Module
    config: Any
    kind: str


def load_checkpoint(path: str | os.PathLike) -> Loaded:
    """Rebuild the network of a fairseq checkpoint from its own options and weights.

    Raises:
        UserError: the file is missing, damaged, wants to run code, is not a fairseq checkpoint, is of
            another architecture, or its weights do not fit the network that its options describe.
    """
    file = read_checkpoint(path)
    args, weights = file.options, file.weights
    kind = getattr(args, "arch", None) or getattr(args, "_name", None)
    kind = ALIASES.get(kind, kind)
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{path} is of architecture {kind!r}; this project runs {known}")
    try:
        sizes = (weights[f"{side}.embed_tokens.weight"].shape[0] for side in SIDES)
        config = ARCHITECTURES[kind].configure(args, *sizes)
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
