"""Finds a graph that was exported for other dictionaries than its model has now."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train_model.data.dictionary import Dictionary
from trt_code.runners.base import Unavailable


def check_vocabularies(graph: Path, metadata: Mapping[str, str], files: Any, remedy: str) -> None:
    """Hold the sizes that the graph was exported with to the model's dictionaries.

    Without this a word that the graph has no row for fails deep in its first layer, or a word that it
    gives has no text.

    Args:
        graph: the file, for the message.
        metadata: its own, with ``config`` as ``onnx_export`` writes it; one without is not judged.
        files: a ``ModelFolder``; a model without text is not judged.
        remedy: the command that makes the graph anew.

    Raises:
        Unavailable: they differ.
    """
    try:
        config = json.loads(metadata.get("config", "{}"))
    except ValueError:
        return
    for side, path in (("src", files.src_dict), ("tgt", files.tgt_dict)):
        exported = config.get(f"{side}_vocab") if isinstance(config, dict) else None
        if path is None or exported is None:
            continue
        words = len(Dictionary.load(path))
        if exported != words:
            raise Unavailable(
                f"{graph} was exported for a dictionary of {str(exported)[:20]} words and {path} has "
                f"{words}: remove it and make it again ({remedy} MODEL={files.argument})"
            )
