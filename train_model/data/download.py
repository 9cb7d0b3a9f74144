"""``./download.sh``: the public checkpoint and its WMT16 English-German text, into data_model/wmt16.

Files that exist are compared with checksums.json, which the first success writes. Missing files are fetched
and checked before they get their names.
"""

import importlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from train_model.cli import (
    Parser,
    UserError,
    add_count,
    first_line,
    number,
    one_at_a_time,
    path_argument,
    run,
)
from train_model.data.dictionary import Dictionary
from train_model.data.files import read_lines
from train_model.data.transfer import (
    DAMAGED_ARCHIVE,
    Ledger,
    NetworkError,
    archive_members,
    fetch,
    open_archive,
    refuse_impostor,
)

DRIVE_FOLDER = "1xDC8zLuH-a6Ws0l9ERsmX5UB1Ko2xkmf"
DRIVE_ARCHIVE = "0B_bZck-ksdkpM25jRUN2X2UxMm8"
SEED = "https://raw.githubusercontent.com/ustcdane/lite_transformer_trt/main/train_model/test/wmt16test"

CHECKPOINT = "checkpoint_last.pt"
DICTIONARIES = ("dict.en.txt", "dict.de.txt")
SYMBOLS = 32768  # with the four special symbols; both dictionaries are the same
ARCHIVE = "wmt16_en_de.tar.gz"
LANGUAGES = ("en", "de")
TEST_SET = "newstest2014.tok.bpe.32000"
SUBWORD_MARK = "@@ "  # the tokenizer's; not imported, to need no package but gdown
TEXTS = ("train.tok.clean.bpe.32000", "newstest2013.tok.bpe.32000", TEST_SET)

MANUAL = f"""\
By hand, in a browser or on another machine:
  1. https://drive.google.com/drive/folders/{DRIVE_FOLDER}
     -> {CHECKPOINT}
  2. {SEED}/
     -> {" and ".join(DICTIONARIES)}
  3. https://drive.google.com/uc?export=download&id={DRIVE_ARCHIVE}
     -> {ARCHIVE}
Put them into {{folder}} and run ./download.sh again: it checks and unpacks what it finds.
Or put them on a server of yours and run ./download.sh --mirror https://server/folder
`make bench` and `make translate` work without any of it (MODEL=demo)."""


@dataclass(frozen=True)
class Options:
    """Addresses to fetch from, timeouts and attempts."""

    folder: Path
    mirror: str | None
    timeout: float
    attempts: int


def download(options: Options) -> None:
    """Fetch all files into ``options.folder``; a second run waits for the first.

    Raises:
        OSError: the disk is full or cannot be written; the part that arrived is kept.
        NetworkError: a file cannot be fetched from here.
        UserError: a fetched or an existing file is not the expected one.
    """
    options.folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(_staging(options.folder) / "lock"):
        _download(options)


def _download(options: Options) -> None:
    folder = options.folder
    ledger = Ledger(folder / "checksums.json")
    _obtain(CHECKPOINT, _checkpoint_source(options), _check_checkpoint, ledger, folder)
    for name in DICTIONARIES:
        _obtain(name, _url_source(name, SEED, options), _check_dictionary, ledger, folder)
    if not all((folder / name).is_file() for name in _unpacked()):
        _obtain_texts(options)
    for name in _unpacked():
        ledger.accept(name, folder / name)
    print(f"{folder}: complete; now `make bench eval MODEL=wmt16`")


def _obtain(
    name: str,
    get: Callable[[Path], None],
    check: Callable[[Path], None],
    ledger: Ledger,
    folder: Path,
) -> None:
    """Make ``folder/name`` an accepted file; fetches it if it is missing."""
    final = folder / name
    if final.is_file():
        check(final)
        ledger.accept(name, final)
        print(f"{final}: here already")
        return
    part = _staging(folder) / name
    get(part)
    try:
        check(part)
        ledger.accept(name, part)
    except UserError:
        part.unlink()  # the next attempt would take it for the beginning of the file
        raise
    part.replace(final)
    print(f"{final}: fetched")


def _obtain_texts(options: Options) -> None:
    """Unpack the data set's archive, fetched or put there by hand, and remove it."""
    archive = options.folder / ARCHIVE
    by_hand = archive.is_file()
    if not by_hand:
        archive = _staging(options.folder) / ARCHIVE
        _archive_source(options)(archive)
    try:
        _check_archive(archive)
        _unpack(archive, options.folder)
    except UserError:
        if not by_hand:
            archive.unlink()
        raise
    except OSError:  # no room to unpack: keep the archive for the next run
        archive.replace(options.folder / ARCHIVE)
        raise
    archive.unlink()
    print(f"{options.folder}: unpacked {ARCHIVE}")


def _staging(folder: Path) -> Path:
    """Return the folder for incomplete files, inside ``folder`` so that a rename can finish them."""
    staging = folder / ".download"
    staging.mkdir(exist_ok=True)
    return staging


def _url_source(name: str, base: str, options: Options) -> Callable[[Path], None]:
    base = options.mirror or base
    return lambda part: fetch(f"{base.rstrip('/')}/{name}", part, options.timeout, options.attempts)


def _checkpoint_source(options: Options) -> Callable[[Path], None]:
    if options.mirror:
        return _url_source(CHECKPOINT, options.mirror, options)

    def get(part: Path) -> None:
        listing = _gdown(
            "download_folder",
            id=DRIVE_FOLDER,
            skip_download=True,
            quiet=True,
            timeout=options.timeout,
        )
        ids = {Path(file.path).name: file.id for file in listing}
        if CHECKPOINT not in ids:
            raise NetworkError(f"the Drive folder has no {CHECKPOINT}, only {', '.join(ids)}")
        _gdown_file(ids[CHECKPOINT], part, options)

    return get


def _archive_source(options: Options) -> Callable[[Path], None]:
    if options.mirror:
        return _url_source(ARCHIVE, options.mirror, options)
    return lambda part: _gdown_file(DRIVE_ARCHIVE, part, options)


def _gdown_file(file_id: str, part: Path, options: Options) -> None:
    _gdown(
        "download",
        id=file_id,
        output=str(part),
        resume=True,
        timeout=options.timeout,
        retries=options.attempts - 1,
    )


def _gdown(function: str, **arguments):
    """Call gdown, which handles Google Drive's confirmation pages."""
    try:
        gdown = importlib.import_module("gdown")
    except ImportError:
        raise UserError("gdown is not here; `pip install 'gdown>=6.5'` and run it again") from None
    try:
        return getattr(gdown, function)(**arguments)
    except (gdown.exceptions.DownloadError, OSError) as error:  # requests' errors are OSErrors
        raise NetworkError(f"Google Drive: {error}") from error


def _check_checkpoint(path: Path) -> None:
    refuse_impostor(path)
    with path.open("rb") as file:
        if not file.read(4).startswith((b"PK\x03\x04", b"\x80")):  # torch.save: zip, or pickle
            raise UserError(f"{path.name} is not a PyTorch checkpoint; delete it and run again")


def _check_dictionary(path: Path) -> None:
    refuse_impostor(path)
    size = len(Dictionary.load(path))
    if size != SYMBOLS:
        raise UserError(f"{path.name} has {size} symbols and the checkpoint {SYMBOLS}")


def _check_archive(path: Path) -> None:
    refuse_impostor(path)
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            raise UserError(f"{path.name} is not a gzip archive; delete it and run again")


def _unpack(archive: Path, folder: Path) -> None:
    """Extract the texts and BPE codes from ``archive``; also write the test set without subword marks."""
    wanted = {
        f"{name}.{language}": f"{name}.{language}" for name in TEXTS for language in LANGUAGES
    }
    wanted["bpe.32000"] = "bpe.codes"
    staging = _staging(folder)
    try:
        with open_archive(archive, "r:gz") as tar:
            for member in archive_members(tar):
                name = wanted.pop(Path(member.name).name, None)
                if name and member.isfile():
                    with tar.extractfile(member) as source, (staging / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except DAMAGED_ARCHIVE as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error}); delete it and run again"
        ) from error
    if wanted:
        raise UserError(
            f"{archive} lacks {', '.join(wanted)}; it is not the archive of the data set"
        )
    for language in LANGUAGES:
        words = _without_marks(staging / f"{TEST_SET}.{language}")
        (staging / f"test.{language}").write_text("".join(words), encoding="utf-8")
    for name in _unpacked():
        (staging / name).replace(folder / name)


def _unpacked() -> list[str]:
    """Names of the files that the archive gives."""
    texts = [f"{name}.{language}" for name in (*TEXTS, "test") for language in LANGUAGES]
    return [*texts, "bpe.codes"]


def _without_marks(path: Path) -> Iterator[str]:
    for line in read_lines(path):
        yield f"{line}\n".replace(SUBWORD_MARK, "")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="./download.sh", description=first_line(__doc__))
    add = parser.add_argument
    add(
        "--output",
        type=path_argument,
        default=Path("data_model/wmt16"),
        help="folder for the files",
    )
    add("--mirror", help="take every file from this address instead of Google Drive and GitHub")
    parser.add_argument(
        "--timeout",
        type=number(0.001),
        default=60,
        metavar="X",
        help="seconds without data after which a download is given up",
    )
    add_count(parser, "--attempts", 3, "tries per file", 1000)
    args = parser.parse_args(argv)
    if args.mirror is not None and not re.match("https?://[^/]", args.mirror):
        raise UserError(f"--mirror {args.mirror!r} is not an address such as https://server/folder")
    try:
        download(Options(args.output, args.mirror, args.timeout, args.attempts))
    except NetworkError:
        print(MANUAL.format(folder=args.output), file=sys.stderr)
        raise


if __name__ == "__main__":
    run(main)
