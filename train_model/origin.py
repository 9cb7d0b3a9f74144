"""Ties the files that are made from a checkpoint to it, so that they are not used with another.

ONNX files, native programs, plans and quantised checkpoints know the checkpoints that they were made from:
the configuration of their network (``train_model.models.config``) has ``made_from``, the nearest first.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from train_model.data.files import sha256_of
from train_model.model_yaml import computation


def digest_of(checkpoint: Path) -> str:
    """Return the SHA-256 of a checkpoint, and of what the model.yaml next to it says of its computation.

    Without such a model.yaml it is that of the file alone. A process reads each version of a file once.

    Raises:
        UserError: the model.yaml is damaged.
    """
    state = checkpoint.stat()
    digest = _content(checkpoint.resolve(), state.st_size, state.st_mtime_ns)
    if options := computation(checkpoint):
        text = json.dumps([digest, options], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
    return digest


@functools.cache
def _content(checkpoint: Path, size: int, changed: int) -> str:
    return sha256_of(checkpoint)


def first_other(made_from: Sequence[str], checkpoints: Iterable[Path | None]) -> int | None:
    """Return the position of the first checkpoint that is not the recorded one; None if there is none.

    Args:
        made_from: the recorded digests, the nearest first; older files have none and are accepted.
        checkpoints: the files that they should be of. None and missing files are not compared.
    """
    for position, (digest, checkpoint) in enumerate(zip(made_from, checkpoints, strict=False)):
        if checkpoint and checkpoint.is_file() and digest_of(checkpoint) != digest:
            return position
    return None
