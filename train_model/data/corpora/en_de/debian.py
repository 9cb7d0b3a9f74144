"""Fetches Debian packages without installing them, and reads their files.

Packages and lists are in one folder: ``*.deb`` and ``lists/*_main_i18n_Translation-{en,de}``. On Debian,
apt-get fills it, with separate package lists, so that the system's do not change. On other systems, fill the
folder by hand or in a container (doc/real_text.md).
"""

import io
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train_model.cli import UserError
from train_model.data.files import sha256_of
from train_model.data.transfer import ARCHIVE_ERRORS, archive_members, open_archive
from train_model.documents import read_text
from train_model.progress import track

LANGUAGES = ("en", "de")
BATCH = 6
"""Packages per call of apt-get; a stopped download loses at most this many."""
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_LISTS = "lists/*_main_i18n_Translation"
_AR_MAGIC = b"!<arch>\n"
MOST_BYTES = 1 << 26
"""The most bytes of a file that is read, and of a package list."""


@dataclass(frozen=True)
class Package:
    """A package file: its name, version, path and the SHA-256 of its bytes."""

    name: str
    version: str
    path: Path
    sha256: str


def fetch(folder: Path, wanted: list[tuple[str, ...]]) -> None:
    """Fetch the packages and the lists of package descriptions that the folder lacks.

    Args:
        folder: receives the files.
        wanted: the possible names of each package.

    Raises:
        UserError: a file is missing and apt-get is not installed, or apt-get fails.
    """
    missing = [names for names in wanted if not _find(folder, names)]
    if not missing and not _missing_lists(folder):
        return
    if not shutil.which("apt-get"):
        some = f"{_LISTS}-en or -de"
        if missing:
            some = f"{len(missing)} packages, such as {'|'.join(missing[0])}"
        raise UserError(
            f"{folder} lacks {some}, and apt-get is not installed; doc/real_text.md says how to fill "
            "the folder elsewhere"
        )
    for place in ("lists/partial", "archives/partial", "incoming"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    _apt(folder, "apt-get", ["-qq", "update"])
    known = set(_apt(folder, "apt-cache", ["pkgnames"]).split())
    chosen = [next((name for name in names if name in known), None) for names in missing]
    unknown = ["|".join(n) for n, name in zip(missing, chosen, strict=True) if name is None]
    if unknown:
        raise UserError(
            f"this system's package lists do not have {', '.join(unknown)}; "
            "the corpus is made from Debian 12 or 13"
        )
    batches = [chosen[at : at + BATCH] for at in range(0, len(chosen), BATCH)]
    incoming = folder / "incoming"
    for batch in track(batches, f"download {len(chosen)} packages", unit="parts"):
        _apt(folder, "apt-get", ["-qq", "download", *batch], incoming)
        for path in incoming.glob("*.deb"):
            path.replace(folder / path.name)


def _apt(folder: Path, program: str, arguments: list[str], place: Path | None = None) -> str:
    """Run apt with separate package lists and archives.

    Raises:
        UserError: apt fails; the message has the last line of its output.
    """
    folder = folder.resolve()
    options = {
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache::Archives": folder / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Acquire::Languages": "de,en",
        "Acquire::GzipIndexes": "false",
        "APT::Sandbox::User": "root",
    }
    if _SOURCES.is_file():  # no other repositories
        options |= {"Dir::Etc::sourcelist": _SOURCES, "Dir::Etc::sourceparts": "-"}
    command = [program]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    done = subprocess.run([*command, *arguments], cwd=place, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["?"]
        raise UserError(f"{program} {arguments[-1]}: {said[-1]}; run it again to go on")
    return done.stdout


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the newest file of a package, or None."""
    for name in names:
        if found := sorted(folder.glob(f"{name}_*.deb")):
            return found[-1]
    return None


def packages(folder: Path, wanted: list[tuple[str, ...]]) -> list[Package]:
    """Return the package files, in the order of their names.

    Raises:
        UserError: one is missing.
    """
    found = []
    for names in track(wanted, "checksums", unit="packages"):
        path = _find(folder, names)
        if path is None:
            raise UserError(f"{folder} lacks the package {'|'.join(names)}; fetch it again")
        parts = urllib.parse.unquote(path.stem).split("_")
        if len(parts) != 3:
            raise UserError(f"{path} is not named NAME_VERSION_ARCHITECTURE.deb; fetch it again")
        name, version, _ = parts
        found.append(Package(name, version, path, sha256_of(path)))
    return sorted(found, key=lambda package: package.name)


def _missing_lists(folder: Path) -> bool:
    """Return whether a list of package descriptions is missing."""
    return any(_list(folder, language) is None for language in LANGUAGES)


def read_list(folder: Path, language: str) -> str:
    """Return the list of package descriptions in a language.

    Raises:
        UserError: it is missing.
    """
    path = _list(folder, language)
    if path is None:
        raise UserError(f"{folder} lacks {_LISTS}-{language}; fetch it again")
    return read_text(path, "delete it and run again")


def _list(folder: Path, language: str) -> Path | None:
    """Return the list of the release itself, not of its updates; None if it is missing."""
    found = sorted(folder.glob(f"{_LISTS}-{language}"))
    return next((p for p in found if not re.search("security|updates|backports", p.name)), None)


def members(package: Path, wanted: re.Pattern) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the files in a package with paths that match.

    Raises:
        UserError: the file is not a package, or is damaged, or a file has more than ``MOST_BYTES``.
    """
    try:
        with open_archive(None, fileobj=_data(package)) as tar:
            for member in archive_members(tar):
                if not member.isfile() or not wanted.search(member.name):
                    continue
                if member.size > MOST_BYTES:
                    raise ValueError(f"{member.name} has {member.size} bytes")
                yield member.name.lstrip("."), tar.extractfile(member).read()
    except ARCHIVE_ERRORS as error:
        raise UserError(f"{package} is damaged ({error}); delete it and run again") from error


def _data(package: Path) -> io.BytesIO:
    """Return data.tar.*, the member of the ar archive that has the package's files."""
    with package.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise ValueError("not an ar archive")
        while header := file.read(60):
            name, size = header[:16].decode("ascii").strip(), int(header[48:58])
            if size < 0:
                raise ValueError(f"{name} has {size} bytes")
            if name.startswith("data.tar"):
                content = file.read(size)
                if len(content) != size:
                    raise EOFError("cut off")
                return io.BytesIO(content)
            file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("it has no data.tar")


def licences(package: Path) -> list[str]:
    """Return the licences in the package's copyright file; none if it is not machine-readable."""
    pattern = re.compile(r"/share/doc/[^/]+/copyright$")
    text = "\n".join(data.decode("utf-8", "replace") for _, data in members(package, pattern))
    if "Format:" not in text:
        return []
    return sorted(set(re.findall(r"^License: *(\S[^\n]*)", text, re.M)))
