"""Downloads files so that a file under its final name is always complete.

A download stays in a partial file until it is complete and checked; a stopped download continues where it
stopped. ``Ledger`` records size and SHA-256 of accepted files.
"""

import gzip
import http.client
import json
import lzma
import re
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from train_model.cli import UserError, atomic_path
from train_model.data.files import sha256_of
from train_model.documents import read_json

BLOCK = 1 << 20
MOST_RECEIVED = 1 << 33
"""The most bytes of a download; a server may send without end."""
SERVER_ERRORS = (OSError, http.client.HTTPException, ValueError)
"""The errors of urllib for a server that fails, a reply that is not HTTP, and a wrong address."""
_VALIDATOR = re.compile("[ -~]{1,1000}")


class NetworkError(UserError):
    """The network or the server failed or refused; another time or place may help."""


def fetch(url: str, part: Path, timeout: float = 60, attempts: int = 3) -> None:
    """Download ``url`` into ``part``, and continue a partial file.

    The partial content is used only if the server's ETag or date shows that the file has not changed.

    Args:
        timeout: seconds without a byte after which an attempt fails.
        attempts: the most attempts; a definite refusal (403, 404) is not repeated.

    Raises:
        NetworkError: the server refuses, or no attempt finished. ``part`` is kept.
    """
    for attempt in range(1, attempts + 1):
        try:
            return _attempt(url, part, timeout)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code < 500 and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
                raise NetworkError(f"{url}: {reason}") from error
        except SERVER_ERRORS as error:
            reason = str(getattr(error, "reason", None) or error or type(error).__name__)
        if attempt < attempts:
            print(f"{url}: {reason}; trying again", file=sys.stderr)
            time.sleep(min(2**attempt, 30))
    kept = part.stat().st_size if part.exists() else 0
    raise NetworkError(f"{url}: {reason}; {kept} bytes are kept, run it again to go on from there")


def _attempt(url: str, part: Path, timeout: float) -> None:
    validator = part.with_name(part.name + ".validator")
    tag = validator.read_text(errors="replace") if validator.is_file() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "lite-transformer-trt"})
    offset = part.stat().st_size if part.exists() and _VALIDATOR.fullmatch(tag) else 0
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        request.add_header("If-Range", tag)
    try:
        reply = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if offset and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # complete already, or of another file: start again
            return _attempt(url, part, timeout)
        raise
    with reply:
        if reply.status != http.HTTPStatus.PARTIAL_CONTENT:
            offset = 0
        validator.unlink(missing_ok=True)
        begins = (reply.headers["Content-Range"] or "").startswith(f"bytes {offset}-")
        if reply.status == http.HTTPStatus.PARTIAL_CONTENT and not begins:
            raise http.client.HTTPException("the server sent another part than was asked for")
        tag = reply.headers["ETag"] or reply.headers["Last-Modified"] or ""
        if _VALIDATOR.fullmatch(tag):
            validator.write_text(tag)
        total = None if reply.length is None else offset + reply.length
        with part.open("ab" if offset else "wb") as file:
            while block := reply.read1(BLOCK):  # as it arrives: a stall must not lose it
                _write(file, block)
                _show(part.name, file.tell(), total)
                if file.tell() > MOST_RECEIVED:
                    raise NetworkError(f"{url}: the server sends more than {MOST_RECEIVED} bytes")
            received = file.tell()
    if total is not None and received != total:
        raise http.client.IncompleteRead(b"", total - received)
    validator.unlink(missing_ok=True)


def _write(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:  # an error of the disk: another attempt would not help
        raise UserError(f"cannot write {file.name}: {error.strerror}; make room there") from error


def _show(name: str, done: int, total: int | None) -> None:
    if sys.stderr.isatty():
        whole = f" of {total / 2**20:.1f}" if total else ""
        end = "\n" if done == total else ""
        print(
            f"\r\x1b[K{name}: {done / 2**20:.1f}{whole} MiB", end=end, file=sys.stderr, flush=True
        )


def refuse_impostor(path: Path) -> None:
    """Refuse a page or a pointer that a server sent instead of the file.

    Raises:
        UserError: the file is empty, an HTML page, or a pointer of git-lfs.
    """
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise UserError(f"{path.name} is empty")
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise UserError(
            f"{path.name} is a web page, not the file (a quota or permission notice?); "
            "open its address in a browser to see which"
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path.name} is a git-lfs pointer, not the file; run `git lfs pull` there")


def check_archive(path: Path) -> None:
    """Refuse a file that is not a complete .tgz.

    Raises:
        UserError: the file cannot be read to its end as a .tgz.
    """
    refuse_impostor(path)
    try:
        with open_archive(path, "r:gz") as tar:
            for _ in archive_members(tar):
                pass
    except ARCHIVE_ERRORS as error:
        with path.open("rb") as file:
            start = file.read(60)
        raise UserError(
            f"{path} cannot be unpacked ({error}); it begins with {start!r}. If that is a notice of the "
            "server's, try again later; otherwise delete it and run again"
        ) from error


MOST_UNPACKED = 1 << 33
"""The most bytes of all files in an archive; a small archive may unpack to any number of zeros."""
MOST_MEMBERS = 1 << 20
"""The most files in an archive."""
MOST_OF_NAMES = 1 << 16
"""The most bytes of a header with long names; tarfile reads it at once."""
MOST_SHARED = 1000
"""The most values of headers that hold for all later files; tarfile keeps them."""
DAMAGED_ARCHIVE = (
    tarfile.TarError,
    EOFError,
    ValueError,
    RecursionError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
)
"""The errors that tell that an archive is damaged."""
ARCHIVE_ERRORS = (*DAMAGED_ARCHIVE, OSError)
"""All errors that reading a damaged archive raises."""
_WITH_NAMES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Member(tarfile.TarInfo):
    """A member whose headers take little memory. tarfile reads them before it returns the member."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # "The entry point is _proc_member() which can be overridden in a subclass" (tarfile.py)
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError("it has a sparse file")
        long = self.type in _WITH_NAMES and not 0 <= self.size <= MOST_OF_NAMES
        if long or len(tar.pax_headers) > MOST_SHARED:
            raise ValueError("it has a header that is too long")
        return super()._proc_member(tar)

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise ValueError("it has a sparse file")


def open_archive(
    path: Path | None, mode: str = "r:*", fileobj: BinaryIO | None = None
) -> tarfile.TarFile:
    """Open a tar archive as :func:`tarfile.open` does; raises one of ``ARCHIVE_ERRORS``.

    Reading it takes little memory, whatever its headers say. Sparse files are refused.
    """
    return tarfile.open(path, mode, fileobj, tarinfo=_Member)


def archive_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an opened archive.

    Raises:
        ValueError: a member has a negative size, at which tarfile would begin again, all of them have more
            than ``MOST_UNPACKED`` bytes, or there are more than ``MOST_MEMBERS``.
    """
    left, number = MOST_UNPACKED, 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # tarfile would keep them all
        left, number = left - member.size, number + 1
        if member.size < 0 or left < 0:
            raise ValueError(
                f"it has more than {MOST_UNPACKED} bytes, or a negative number of them"
            )
        if number > MOST_MEMBERS:
            raise ValueError(f"it has more than {MOST_MEMBERS} files")
        yield member


class Ledger:
    """Size and SHA-256 of accepted files, in one JSON file.

    An entry for a checked file is marked as such. Unmarked entries of earlier versions may belong to a notice
    that a server sent instead of the file; a checked file replaces them.
    """

    def __init__(self, path: Path):
        """Read ``path`` if it exists.

        Raises:
            UserError: it is not a ledger.
        """
        self._path = path
        entries = read_json(path, "delete it and run again") if path.exists() else {}
        if not isinstance(entries, dict):
            raise UserError(f"{path} is damaged (no object); delete it and run again")
        self._entries = {
            name: entry
            for name, entry in entries.items()
            if isinstance(entry, dict) and {"size", "sha256"} <= entry.keys()
        }

    def has_checked(self, name: str, path: Path) -> bool:
        """Return whether the file at ``path`` is the one that was recorded as ``name`` after a check."""
        known = self._entries.get(name, {})
        return bool(known.get("checked")) and known["sha256"] == sha256_of(path)

    def accept(self, name: str, path: Path, checked: bool = False) -> None:
        """Record the file at ``path`` as ``name``, or compare it with the record.

        Args:
            name: of the entry.
            path: the file.
            checked: whether the file's content was checked.

        Raises:
            UserError: the file differs from the record.
        """
        entry = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        known = self._entries.get(name, entry)
        same = all(known[key] == entry[key] for key in entry)
        if not same and (known.get("checked") or not checked):
            raise UserError(
                f"{path} ({entry['size']} bytes) is not the {name} of {known['size']} bytes that "
                f"{self._path} records; delete it, or its entry there if it changed on purpose"
            )
        if not same:
            print(
                f"warning: {self._path} recorded a {name} of {known['size']} bytes, which nobody checked; "
                "it records this one now",
                file=sys.stderr,
            )
        self._entries[name] = entry | ({"checked": True} if checked or known.get("checked") else {})
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._entries, indent=2, sort_keys=True) + "\n")
