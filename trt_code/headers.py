"""Fetches TensorRT's headers, which the plugins are compiled with, from NVIDIA's public repository.

    python -m trt_code.headers                      # for plugins of the installed TensorRT
    python -m trt_code.headers --release 10.16

NVIDIA's Python packages do not contain them. The headers are under the Apache License 2.0; they go to
build/TensorRT/include, where CMake and ``make doctor`` look. Each file must carry that licence, and the
version in them must be the release that was asked for; of known releases the bytes are checked too.
"""

import hashlib
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from train_model.cli import Parser, UserError, first_line, path_argument, run
from train_model.data.transfer import SERVER_ERRORS
from train_model.file_sets import replace_folder
from train_model.scratch import scratch_folder
from trt_code.doctor import HEADER, find_headers, header_version, require
from trt_code.engine.tensorrt_api import RTX, choose_family, load_tensorrt, version_tuple

REPOSITORY = "https://raw.githubusercontent.com/NVIDIA/TensorRT"
FOLDER = Path("build/TensorRT/include")
# The headers that the plugins include; the headers they include in turn are fetched too.
ENTRIES = ("NvInferRuntime.h", HEADER)
HEADERS = re.compile(r"Nv\w+\.h")
LICENCE = "SPDX-License-Identifier: Apache-2.0"
# SHA-256 of the files' own SHA-256 sums in the order of their names.
KNOWN = {
    "10.16": "99b5992c3d9c14d47c6957a0b8a2e7e301a27e34bfe74a3d3b405c5be0e22967",
    "11.0": "f0684ec3d7b628e10d0de79eb7022462419128fdd3e9a8ea1900c0c241b54dd2",
    "11.1": "a4f1572d614f2cb76db736e03f6ee6eea67957f8e8daeb6b9abfc8256b70a85a",
}
NEWEST = "11.1"
SECONDS = 30  # without an answer
MOST_BYTES = 1 << 24  # of a header; the longest one has 0.5 MB


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.headers", description=first_line(__doc__))
    parser.add_argument(
        "--release", help=f"e.g. {NEWEST}; default: the release for the installed TensorRT"
    )
    parser.add_argument("--output", type=path_argument, default=FOLDER, help=f"folder ({FOLDER})")
    parser.add_argument(
        "--source", default=REPOSITORY, help="address of the repository's files, or a mirror's"
    )
    arguments = parser.parse_args(argv)
    if not arguments.release and (found := find_headers()):
        print(f"TensorRT's headers are here already: {found}")
        return
    if roots := [root for root in ("TENSORRT_ROOT", "TENSORRT_HOME") if os.environ.get(root)]:
        require(["tensorrt-headers"])
        raise UserError(f"{roots[0]} names the headers; leave it out to have others fetched")
    release = arguments.release or default_release()
    if not re.fullmatch(r"[0-9]+\.[0-9]+", release):
        raise UserError(f"{release!r} is not a release; write e.g. --release {NEWEST}")
    names = fetch(arguments.source, release, arguments.output)
    checked = (
        "their bytes are known" if release in KNOWN else "their licence and version were checked"
    )
    print(f"{arguments.output}: {len(names)} headers of TensorRT {release}; {checked}")


def default_release() -> str:
    """Return the release of the headers for plugins of the installed TensorRT."""
    family = choose_family()
    if family is RTX or not family.is_installed:
        return NEWEST
    return ".".join(map(str, version_tuple(load_tensorrt(family).__version__)[:2]))


def fetch(source: str, release: str, folder: Path) -> list[str]:
    """Fetch all headers of a release into ``folder``; return their names.

    Raises:
        UserError: they cannot be fetched or fail a check, or ``folder`` has other files; it stays unchanged.
    """
    try:
        if folder.exists() and not all(HEADERS.fullmatch(path.name) for path in folder.iterdir()):
            raise UserError(
                f"{folder} has other files than TensorRT's headers; name a new folder with --output"
            )
        with scratch_folder(folder) as scratch:
            draft = scratch / "include"
            draft.mkdir()
            tag = _tag(source, release)
            waiting, sums = list(ENTRIES), {}
            while waiting:
                header = waiting.pop()
                content = _download(f"{source}/{tag}/include/{header}", release)
                text = content.decode(errors="replace")
                if LICENCE not in text[:2000]:
                    raise UserError(
                        f"{header} of {source} does not carry the Apache License 2.0; not kept"
                    )
                (draft / header).write_bytes(content)
                sums[header] = hashlib.sha256(content).hexdigest()
                included = re.findall(r'^#include "([A-Za-z]+\.h)"', text, re.MULTILINE)
                waiting += [h for h in included if h not in sums and h not in waiting]
            _check(source, release, draft, sums)
            replace_folder(draft, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    return sorted(sums)


def _tag(source: str, release: str) -> str:
    """Return the repository's tag of a release: v10.14 and later, and v10.13.0 and others before."""
    try:
        _download(f"{source}/v{release}/include/{HEADER}", release)
    except _NotThere as missing:
        try:
            _download(f"{source}/v{release}.0/include/{HEADER}", release)
        except _NotThere:
            raise missing from None
        return f"v{release}.0"
    return f"v{release}"


class _NotThere(UserError):
    """The server answers that it does not have the file."""


def _download(address: str, release: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as reply:
            content = reply.read(MOST_BYTES)
    except urllib.error.HTTPError as error:
        raise _NotThere(
            f"{address}: {error.code} {error.reason}; if there is no release {release}, choose another of "
            f"the same major version with --release, e.g. {NEWEST}"
        ) from error
    except SERVER_ERRORS as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{address} cannot be reached ({reason}); fetch the folder include of "
            f"https://github.com/NVIDIA/TensorRT at v{release} elsewhere and set TENSORRT_ROOT to its parent"
        ) from error
    if len(content) == MOST_BYTES:
        raise UserError(f"{address} is too long for a header")
    return content


def _check(source: str, release: str, folder: Path, sums: dict[str, str]) -> None:
    found = header_version(folder)
    if found != release:
        raise UserError(f"{source} has headers of TensorRT {found} under v{release}; not kept")
    total = hashlib.sha256("".join(sums[name] for name in sorted(sums)).encode()).hexdigest()
    if KNOWN.get(release, total) != total:
        raise UserError(f"the headers of {source} are not those of TensorRT {release}; not kept")


if __name__ == "__main__":
    run(main)
