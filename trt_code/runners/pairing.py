"""Detects files that do not belong to a model: of other dictionaries, other weights or another precision."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_model.data.dictionary import misfit
from train_model.origin import first_other
from trt_code.runners.base import OtherWeights, Unavailable

if TYPE_CHECKING:
    from trt_code.runners.spec import Request

ADVICE = "give the dictionary that the network was trained with"
Made = tuple[Path, str]
"""A file, and the command that makes it, without ``MODEL=``."""


def check_config(config: Any, request: "Request") -> None:
    """Compare the checkpoint that a runner has loaded with the model.

    Args:
        config: the network's configuration.
        request: the runner's; the dictionaries of a model without text are not compared.

    Raises:
        Unavailable: it is of other dictionaries, or a quantised checkpoint is of other weights.
    """
    quantized = _quantized(request) if config.int8_layers else []
    checkpoint = quantized[0][0] if quantized else request.model.checkpoint
    if reason := misfit(checkpoint, "was trained with", vars(config), _dictionaries(request)):
        raise Unavailable(f"{reason}: {ADVICE}")
    if quantized:
        _check_weights(quantized, config.made_from, [request.model.checkpoint], request)


def check_file(file: Path, metadata: Mapping[str, str], request: "Request", command: str) -> None:
    """Compare a file that was made from a checkpoint with the model.

    Args:
        file: the file, for the message.
        metadata: the file's, with ``config`` from ``onnx_export``; what it does not say is not compared.
        request: see :func:`check_config`.
        command: the command that makes the file, without ``MODEL=``.

    Raises:
        Unavailable: it is of other dictionaries, other weights, other options or another precision.
    """
    config = _config(metadata)
    again = f"remove it and make it again ({command} MODEL={request.model.argument})"
    if reason := misfit(file, "was exported for", config, _dictionaries(request)):
        raise Unavailable(f"{reason}: {again} if you trained a new network, otherwise {ADVICE}")
    precision = metadata.get("precision", request.precision)
    if request.precision == "int8" and not config.get("int8_layers", True):
        precision = "fp32"
    if precision != request.precision:
        raise Unavailable(f"{file} is in {precision[:20]}, not in {request.precision}: {again}")
    made_from = config.get("made_from")
    if isinstance(made_from, list):
        _check_weights([(file, command), *_quantized(request)], made_from, request.origins, request)


def _check_weights(
    made: Sequence[Made],
    made_from: Sequence[str],
    origins: Sequence[Path | None],
    request: "Request",
) -> None:
    """Raise ``OtherWeights`` if ``made_from``, the record of the first file, has another checkpoint.

    Args:
        made: the file, and the quantised checkpoint that it was made from.
        made_from: see ``train_model.origin``.
        origins: the checkpoints of today, as in ``Request.origins``.
        request: for the advice.
    """
    position = first_other(made_from, origins)
    if position is not None:
        # a file of today's quantised checkpoint is right, and that checkpoint is not
        file, command = made[min(position, len(made) - 1)]
        raise OtherWeights(
            f"{file} is of other weights or options than {origins[position]}: make it again "
            f"(touch {origins[position]}; {command} MODEL={request.model.argument})"
        )


def _quantized(request: "Request") -> list[Made]:
    """Return the quantised checkpoint of the request; empty if there is none, or the precision needs none."""
    checkpoint, *model = request.origins
    if not model or checkpoint is None:
        return []
    return [(checkpoint, "make ptq qat" if checkpoint.parent.name.endswith("-qat") else "make ptq")]


def _config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration in a graph's metadata; empty if it is missing or unreadable."""
    try:
        config = json.loads(metadata.get("config", "{}"))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _dictionaries(request: "Request") -> dict[str, Any]:
    return {"src": request.model.src_dict, "tgt": request.model.tgt_dict}
