"""The pieces of a model in fairseq's data-bin folder or hub archive: checkpoint, dictionaries, codes."""

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from train_model.cli import UserError
from train_model.data.transfer import ARCHIVE_ERRORS, archive_members, open_archive
from train_model.models.checkpoint import Loaded, load_checkpoint

# File names in a data-bin folder or a hub archive; the first that exists is used.
CHECKPOINTS = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt", "checkpoint.pt")
CODES = ("bpecodes", "bpe.codes", "codes", "bpe.32000", "code")
SENTENCEPIECE = ("sentencepiece.bpe.model", "spm.model", "sentencepiece.model", "bpe.model")
DICTIONARY = re.compile(r"dict\.([A-Za-z_-]+)\.txt")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 10_000
MAX_UNPACKED = 64 << 30
"""The most bytes of the files that are extracted from an archive."""


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The files of a model, at any paths; None for a file that it does not have."""

    checkpoint: Path | None = None
    src_dict: Path | None = None
    tgt_dict: Path | None = None
    codes: Path | None = None
    target_codes: Path | None = None
    truecase_model: Path | None = None
    test_src: Path | None = None
    test_tgt: Path | None = None
    valid_src: Path | None = None
    languages: tuple[str, str] = ("", "")

    def updated(self, other: "Pieces") -> "Pieces":
        """Return these pieces, replaced by those that ``other`` has."""
        given = {
            name: value for name, value in vars(other).items() if value not in (None, ("", ""))
        }
        return dataclasses.replace(self, **given)


def pieces_in(
    folder: Path,
    languages: tuple[str, str] = ("", ""),
    source: Path | None = None,
    load: Callable[[Path], Loaded] = load_checkpoint,
) -> Pieces:
    """Find the pieces of a data-bin folder or an unpacked hub archive.

    Args:
        folder: the folder of the files.
        languages: source and target; by default those of the checkpoint, or of the source's name.
        source: what the user gave, for its name: the archive or, by default, the folder.
        load: loads the checkpoint, if the languages are asked of it.

    Raises:
        UserError: there are dictionaries of other languages, or the source language is unknown.
    """
    origin = source or folder
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}

    def first(names: Iterable[str]) -> Path | None:
        return next((files[name] for name in names if name in files), None)

    checkpoint = first(CHECKPOINTS)
    only = [path for name, path in files.items() if name.endswith((".pt", ".safetensors"))]
    if checkpoint is None and len(only) == 1:
        checkpoint = only[0]
    sentencepiece = [path for name, path in files.items() if name.endswith(".model")]
    codes = first(CODES) or first(SENTENCEPIECE)
    if codes is None and len(sentencepiece) == 1:
        codes = sentencepiece[0]
    found = sorted(match[1] for name in files if (match := DICTIONARY.fullmatch(name)))
    if not all(languages):
        languages = _languages(origin, files, found, checkpoint, load)
    missing = [name for name in languages if name and name not in found]
    if missing and "dict.txt" not in files:
        raise UserError(
            f"{origin} has no dict.{missing[0]}.txt; it has dictionaries of "
            f"{', '.join(found) or 'no language'}"
        )
    source, target = (files.get(f"dict.{name}.txt", files.get("dict.txt")) for name in languages)
    if not any(languages):
        source = target = files.get("dict.txt")
    return Pieces(checkpoint, source, target, codes, languages=languages)


def _languages(
    origin: Path,
    files: dict[str, Path],
    found: list[str],
    checkpoint: Path | None,
    load: Callable[[Path], Loaded],
) -> tuple[str, str]:
    """Return source and target, from binary files' names, the checkpoint's options or the folder's name."""
    pairs = {
        match.group(1, 2) for name in files if (match := re.match(r"\w+\.([\w]+)-([\w]+)\.", name))
    }
    pairs = {pair for pair in pairs if {*pair} <= {*found}}
    if len(pairs) == 1:
        return pairs.pop()
    if checkpoint and (pair := recorded_languages(load(checkpoint))):
        return pair
    if len(found) == 2 and (
        match := re.search(rf"({'|'.join(found)})[-_.]({'|'.join(found)})", origin.name)
    ):
        return match[1], match[2]
    if found:
        raise UserError(
            f"{origin} does not say which of {', '.join(found)} is the source; give --languages, "
            f"such as --languages {'-'.join((found * 2)[:2])}"
        )
    return "", ""


def recorded_languages(loaded: Loaded) -> tuple[str, str] | None:
    """Return source and target of a checkpoint's options; None if it has none."""
    pair = tuple(getattr(loaded.options, f"{side}_lang", None) for side in ("source", "target"))
    return pair if all(isinstance(name, str) for name in pair) else None


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """Yield the folder ``source``, or a temporary folder with the files of the archive ``source``.

    Raises:
        UserError: ``source`` is neither, the archive is damaged, it is too large for a model, or there is no
            room for its files.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise UserError(f"there is no {source}; give fairseq's data-bin folder or a hub archive")
    if not source.name.endswith(ARCHIVES):
        raise UserError(f"{source} is neither a folder nor one of {', '.join(ARCHIVES)}")
    with tempfile.TemporaryDirectory(prefix="import.") as scratch:
        folder = Path(scratch)
        try:
            _unpack(source, folder)
        except ARCHIVE_ERRORS as error:
            if isinstance(error, OSError) and error.errno:  # of the system, not of the archive
                raise UserError(
                    f"{source} cannot be unpacked into {folder}: {error.strerror}; TMPDIR can name a folder "
                    "with more room"
                ) from error
            raise UserError(f"{source} is a damaged archive: {error}; get it again") from error
        yield folder


def _unpack(source: Path, folder: Path) -> None:
    """Copy the archive's ordinary files into ``folder``; ignores their paths, and links."""
    left = MAX_UNPACKED
    with open_archive(source) as archive:
        for number, member in enumerate(archive_members(archive)):
            if number >= MAX_MEMBERS:
                raise UserError(
                    f"{source} has more than {MAX_MEMBERS} files; unpack it and give the folder"
                )
            name = Path(member.name).name
            if not member.isfile() or not _is_piece(name):
                continue
            left -= member.size
            if left < 0:
                raise UserError(f"{source} is larger than a model; unpack it and give the folder")
            if (folder / name).exists():
                raise UserError(
                    f"{source} has two files {name}; unpack it and give one of the folders"
                )
            with archive.extractfile(member) as content, (folder / name).open("wb") as file:
                shutil.copyfileobj(content, file)


def _is_piece(name: str) -> bool:
    return (
        name in (*CHECKPOINTS, *CODES, "dict.txt")
        or DICTIONARY.fullmatch(name) is not None
        or name.endswith((".pt", ".safetensors", ".model", ".glossary"))
    )
