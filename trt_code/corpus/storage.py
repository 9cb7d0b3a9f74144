"""Files of a corpus: on a disk, in a bucket, compressed or not, by path or URL."""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import posixpath
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper

from train_model.cli import UserError

# pyarrow has these clients built in. fsspec would need a further package for each.
BUILT_INTO_ARROW = ("s3", "gs", "gcs", "hdfs", "viewfs")
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException, UserError)
"""What reading a damaged or missing file raises."""
READ_BYTES = 4 << 20
"""The least that is asked of a file system at once. Arrow's client sends a bucket a request for each read."""


def _open_zst(file: BinaryIO, mode: str) -> BinaryIO:
    # pyarrow reads every frame of a file; the package zstandard stops after the first one
    if mode == "wb":
        return pa.CompressedOutputStream(file, "zstd")
    return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))


def _open_gz(file: BinaryIO, mode: str) -> BinaryIO:
    # without a time and a name, the same text always gives the same bytes
    return gzip.GzipFile(filename="", fileobj=file, mode=mode, mtime=0)


# Each opens a compressed stream over a file, in the mode "rb" or "wb". Closing it may close the file.
COMPRESSIONS: dict[str, Callable[[BinaryIO, str], BinaryIO]] = {
    ".gz": _open_gz,
    ".zst": _open_zst,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


def compression_of(name: str) -> str:
    """Return the suffix of a file's compression, or "" if it is not compressed."""
    suffix = posixpath.splitext(name)[1].lower()
    return suffix if suffix in COMPRESSIONS else ""


@dataclass(frozen=True)
class Folder:
    """A folder of any file system. Names are relative to it and separated by ``/``.

    Attributes:
        fs: the file system.
        path: the folder's path in it.
        url: the folder as the user gave it, for messages.
    """

    fs: fsspec.AbstractFileSystem
    path: str
    url: str

    def join(self, name: str) -> str:
        """Return the path of a file in the file system."""
        return posixpath.join(self.path, name)

    @contextlib.contextmanager
    def open(self, name: str, compression: str = "") -> Iterator[BinaryIO]:
        """Open a file for reading, decompressed."""
        with contextlib.ExitStack() as stack:
            unbuffered = self.fs.open(self.join(name), "rb")
            file = stack.enter_context(io.BufferedReader(unbuffered, READ_BYTES))
            yield (
                stack.enter_context(COMPRESSIONS[compression](file, "rb")) if compression else file
            )

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """Write a file: under a temporary name, which is renamed on success and deleted on failure."""
        path = self.join(name)
        folder, base = posixpath.split(path)
        self.fs.makedirs(folder, exist_ok=True)
        temporary = posixpath.join(folder, f".{base}.{uuid.uuid4().hex}")
        try:
            with self.fs.open(temporary, "wb") as file:
                yield file
            self.fs.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                self.fs.rm_file(temporary)
            raise

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""
        try:
            return self.fs.cat_file(self.join(name))
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none."""
        try:
            return self.fs.info(self.join(name))["size"]
        except FileNotFoundError:
            return None

    def identity(self, name: str) -> dict[str, int | str]:
        """Return what changes if a file is replaced: its size, and its time or a bucket's own checksum."""
        info = self.fs.info(self.join(name))
        version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or ""
        return {"size": info["size"], "version": str(version)}

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.join(name), recursive=True)


def locate(url: str) -> Folder:
    """Return the folder that a path or URL names; it need not exist.

    Raises:
        UserError: the kind of URL is not supported here, or the bucket cannot be reached.
    """
    if not url:
        raise UserError("the path is empty; give IN=files and OUT=folder")
    scheme = url.partition("://")[0] if "://" in url else ""
    try:
        if scheme in BUILT_INTO_ARROW:
            fs, path = pyarrow.fs.FileSystem.from_uri(url)
            return Folder(ArrowFSWrapper(fs), path, url)
        return Folder(*fsspec.url_to_fs(url), url)
    except (ImportError, ValueError, OSError, pa.ArrowException) as error:
        raise UserError(f"cannot use {url}: {error}") from error


def find(url: str) -> tuple[Folder, list[str]]:
    """Return the files of a folder, of a glob or the one file that ``url`` names, sorted.

    Files and folders whose names start with ``_`` or ``.`` are left out, as in Spark and Arrow. The names
    of a glob are relative to the last folder before its first ``*``, ``?`` or ``[``.

    Raises:
        UserError: nothing is there, or it cannot be listed.
    """
    place = locate(url)
    try:
        if any(sign in place.path for sign in "*?["):
            fixed = place.path[: min(i for s in "*?[" if (i := place.path.find(s)) >= 0)]
            root = posixpath.dirname(fixed)
            paths = [path for path in place.fs.glob(place.path) if place.fs.isfile(path)]
        elif place.fs.isfile(place.path):
            root, paths = posixpath.dirname(place.path), [place.path]
        else:
            root, paths = place.path, place.fs.find(place.path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot list {url}: {error}") from error
    names = sorted(posixpath.relpath(path, root or "/") for path in paths)
    names = [n for n in names if not any(part[0] in "_." for part in n.split("/"))]
    if not names:
        raise UserError(f"no file at {url}; give a file, a folder or a glob in quotes")
    return Folder(place.fs, root, url), names


def cannot_write(url: str, error: BaseException) -> str:
    """Return the message for an output that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        reason += "; free some space"
    return f"cannot write {url}: {reason}; finished shards are kept, and the same command continues there"
