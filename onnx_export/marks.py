"""Reads a file's metadata about its positions, its other half and its weights.

Imports no package, so that a runner that reads the metadata with ONNX Runtime starts at once.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from train_model.cli import UserError

PAIR, WEIGHTS = "pair", "weights_sha256"
MARK = b"\nweights_sha256 "
"""Comes before the hash at the end of a file of weights."""


def positions(metadata: Mapping[str, str], path: Path) -> tuple[int, int]:
    """The longest source and translation of a network, in tokens.

    Raises:
        UserError: the metadata does not have them.
    """
    return position_count(metadata, "source", path), position_count(metadata, "target", path)


def position_count(metadata: Mapping[str, str], side: str, path: Path) -> int:
    """The number of positions of one side; raises what :func:`positions` raises."""
    number = metadata.get(f"max_{side}_positions", "")
    if not re.fullmatch("[1-9][0-9]{0,5}", number):
        raise UserError(
            f"{path} does not say how many positions it has; export it again (make onnx)"
        )
    return int(number)


def check_pair(metadata: Sequence[Mapping[str, str]], path: Path) -> None:
    """Refuse halves of different exports; ``metadata`` is that of each, ``path`` their name in messages.

    Raises:
        UserError: the halves do not belong together.
    """
    if len({entries.get(PAIR) for entries in metadata}) > 1:
        raise UserError(f"{path}: its halves are of two exports; make them again with `make onnx`")


def check_mark(file: Path, digest: str | None, path: Path) -> None:
    """Refuse weights that end with another hash than the graph's; a graph without a hash is not checked."""
    if digest is None:
        return
    mark = MARK + digest.encode()
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - len(mark)))
        if stream.read() != mark:
            raise UserError(
                f"{file} is not the weights of {path}: it is of another export; make it again"
            )


def weights_names(name: str) -> list[str]:
    """Return the possible names of a weights file; successive exports use different names."""
    return [f"{name}{end}" for end in (".data", ".1.data")]
