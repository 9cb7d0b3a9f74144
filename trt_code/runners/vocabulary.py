"""Detects networks that were made for other dictionaries than the model has now."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train_model.data.dictionary import misfit
from trt_code.runners.base import Unavailable

ADVICE = "give the dictionary that the network was trained with"


def check_config(checkpoint: Path, config: Any, files: Any) -> None:
    """Compare the vocabularies of a checkpoint with the model's dictionaries.

    Args:
        checkpoint: the file, for the message.
        config: the network's configuration.
        files: a ``ModelFolder``; a model without text is not checked.

    Raises:
        Unavailable: they differ.
    """
    if reason := misfit(checkpoint, "was trained with", vars(config), _dictionaries(files)):
        raise Unavailable(f"{reason}: {ADVICE}")


def check_vocabularies(graph: Path, metadata: Mapping[str, str], files: Any, remedy: str) -> None:
    """Compare the vocabularies that a graph was exported with to the model's dictionaries.

    Args:
        graph: the file, for the message.
        metadata: the graph's metadata, with ``config`` from ``onnx_export``; without ``config``, nothing is
        checked.
        files: see :func:`check_config`.
        remedy: the command that makes the graph again.

    Raises:
        Unavailable: they differ.
    """
    sizes = sizes_in(metadata)
    if reason := misfit(graph, "was exported for", sizes, _dictionaries(files)):
        raise Unavailable(
            f"{reason}: remove it and make it again ({remedy} MODEL={files.argument}) if you trained a new "
            f"network, otherwise {ADVICE}"
        )


def sizes_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration in a graph's metadata; empty if it is missing or unreadable."""
    try:
        config = json.loads(metadata.get("config", "{}"))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _dictionaries(files: Any) -> dict[str, Any]:
    return {"src": files.src_dict, "tgt": files.tgt_dict}
