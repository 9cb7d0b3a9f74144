"""The record of finished shards, from which a stopped run continues.

The output folder gets three folders that readers of corpora skip because of their names:

    _manifest/SHARD.json    one file per finished shard, written last
    _manifest/settings.json what all shards were translated with
    _rejected/SHARD.jsonl   rows that could not be translated, with the reason
    _parts/                 parts of unfinished shards; removed at the start and the end of a run
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from train_model.cli import UserError
from train_model.documents import WRONG_FORM
from trt_code.corpus.storage import Folder

PARTS, REJECTED = "_parts", "_rejected"
SETTINGS = "_manifest/settings.json"


@dataclass(frozen=True)
class Record:
    """A finished shard.

    Attributes:
        input: size and version of the shard that was read; see ``Folder.identity``.
        rows_in: rows of the shard.
        rows_out: rows that were translated, those without text included.
        rejected: rows in the side file.
        warned: rows whose translation may be wrong because they are unlike the model's training text.
        bytes_out, sha256: of the output.
    """

    input: dict[str, int | str]
    rows_in: int
    rows_out: int
    rejected: int
    warned: int
    bytes_out: int
    sha256: str


def claim(output: Folder, settings: dict[str, Any]) -> None:
    """Record what the shards of a folder are translated with.

    Raises:
        UserError: the folder has shards that were translated with something else, or other files.
    """
    before = output.read(SETTINGS)
    if before is None:
        if output.fs.exists(output.path) and output.fs.ls(output.path, detail=False):
            raise UserError(f"{output.url} is not empty; give a new folder as output")
        _write(output, SETTINGS, settings)
        return
    try:
        known = json.loads(before)
        changed = [name for name in settings if known.get(name) != settings[name]]
    except WRONG_FORM:
        raise UserError(
            f"{output.url}/{SETTINGS} is damaged; give a new folder as output"
        ) from None
    if changed:
        was = ", ".join(f"{name} {known.get(name)}" for name in changed)
        now = ", ".join(f"{name} {settings[name]}" for name in changed)
        raise UserError(
            f"{output.url} was translated with {was}, not {now}; give a new folder as output"
        )


def finished(source: Folder, output: Folder, names: Sequence[str]) -> dict[str, Record]:
    """Return the records of the shards that need no more work.

    A shard is translated again if its input has changed, or if its output is missing or has another size.
    """
    found = {}
    for name in names:
        try:
            record = Record(**json.loads(output.read(_record(name)) or "null"))
            same = record.input == source.identity(name)
        except (OSError, *WRONG_FORM):  # none, or damaged; reading reports a missing input
            continue
        if same and output.size(name) == record.bytes_out:
            found[name] = record
    return found


def finish(output: Folder, name: str, record: Record) -> None:
    """Record that a shard is finished; its output is complete."""
    _write(output, _record(name), asdict(record))


def _record(name: str) -> str:
    return f"_manifest/{name}.json"


def _write(output: Folder, name: str, content: dict[str, Any]) -> None:
    with output.write(name) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
