"""Compiles the C++ library for this machine's processor, once, and loads it."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from train_model.cli import UserError, atomic_path, one_at_a_time
from trt_code.user_cache import user_cache

SOURCES = Path(__file__).parent
ROOT = SOURCES.parents[1]
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"),
    # vectorised sums and loops over float functions; NaN and infinity keep their meaning
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)


COMPILERS = ("c++", "g++", "clang++")
"""The names to look for, in this order, if CXX is not set; the Makefile has the same list."""


class NoLibrary(UserError):
    """The machine has no C++ compiler, or it cannot compile the library, or the library cannot be stored."""


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler: what CXX names, or the first of ``COMPILERS`` on the PATH.

    Raises:
        NoLibrary: there is none, or CXX is not a command.
    """
    if named := os.environ.get("CXX"):
        try:
            command = shlex.split(named)
        except ValueError as error:
            raise NoLibrary(f"CXX={named} is not a command: {error}") from error
        if not command:
            raise NoLibrary("CXX is blank; leave it out, or name a compiler")
        return command
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise NoLibrary("there is no C++ compiler (Debian: apt install g++); CXX= names one")


def has_compiler() -> bool:
    """Whether :func:`find_compiler` finds one."""
    try:
        find_compiler()
    except NoLibrary:
        return False
    return True


@functools.cache
def load() -> ctypes.CDLL:
    """Return the library; it is compiled first unless it exists for this processor.

    Raises:
        NoLibrary: see the class; or the compiled file is damaged.
    """
    try:
        path = library_path()
        if not path.is_file():
            with one_at_a_time(path.parent / ".lock"):
                if not path.is_file():
                    _compile(path)
    except NoLibrary:
        raise
    except (UserError, OSError) as error:
        raise NoLibrary(f"the native library has no place: {error}") from error
    try:
        return _opened(path)
    except (OSError, AttributeError) as error:
        raise NoLibrary(f"cannot load {path}: {error}; delete it") from error


def _opened(path: Path) -> ctypes.CDLL:
    """Open a library.

    Raises:
        OSError: it is not a library for this machine.
        AttributeError: it has other functions.
    """
    library = ctypes.CDLL(str(path))
    library.lite_error.restype = ctypes.c_char_p
    library.lite_program.restype = ctypes.c_void_p
    return library


def library_path() -> Path:
    """Return the file for these sources, this processor and what CXX names, whether it exists or not.

    It is in ``build/native`` of a clone, otherwise in the user's cache folder.
    """
    chosen = os.environ.get("CXX", "")  # another compiler is chosen for another library
    digest = hashlib.sha256(f"{FLAGS} {_processor()} {chosen}".encode(errors="surrogateescape"))
    for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(source.read_bytes())
    folder = ROOT / "build" if (ROOT / "Makefile").is_file() else user_cache()
    return folder / "native" / f"liblite_native.{digest.hexdigest()[:16]}.so"


def _compile(path: Path) -> None:
    command = find_compiler()
    print(f"compiling {path} for this processor, once; takes seconds", file=sys.stderr)
    sources = sorted(map(str, SOURCES.glob("*.cpp")))
    with atomic_path(path) as temporary:
        try:
            subprocess.run(
                [*command, *FLAGS, *sources, "-o", str(temporary)],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise NoLibrary(f"cannot run {command[0]}: {error.strerror}") from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
            # the linker says "failed" of a full disk, before the compiler's own error
            found = next((x for x in lines if "error" in x or "failed" in x), lines[0])
            raise NoLibrary(f"{command[0]} cannot compile the native runner: {found}") from error
        try:
            _opened(temporary)
        except (OSError, AttributeError) as error:
            raise NoLibrary(f"{command[0]} wrote no library: {error}") from error


def _processor() -> str:
    """The abilities that ``-march=native`` compiles for: a build folder may be on a shared disk."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
