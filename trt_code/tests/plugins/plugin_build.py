"""Builds of the plugins and their host for the tests: unchanged, with sanitizers, and with mistakes.

All files go to ``build/plugin_tests/trt<major>``, so only the first run compiles everything. Of several
test processes, one builds while the others wait.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from train_model.cli import one_at_a_time
from trt_code.doctor import header_folders
from trt_code.plugin_host.host import PluginHost

STRICT = ("-Werror", "all-warnings")
PROJECT = Path(__file__).parents[3]
SOURCES = PROJECT / "trt_code"


@dataclass(frozen=True)
class Mistake:
    """A deliberate mistake: ``old``, which occurs once in ``file`` (in trt_code), becomes ``new``.

    ``through`` names a source to compile if ``file`` is a header.
    """

    file: str
    old: str
    new: str
    through: str | None = None


@dataclass(frozen=True)
class PluginBuild:
    """A build for one TensorRT major version."""

    folder: Path
    major: int

    def host(self, variant: str = "") -> PluginHost:
        """Build and return the host and the plugins; the ``variant`` "_asan" has sanitizers."""
        _make(self.folder, f"lite_plugins{variant}", f"lite_plugin_host{variant}")
        plugins = self.folder / "out/plugins"
        return PluginHost(
            plugins / f"lite_plugin_host{variant}_trt{self.major}",
            plugins / f"liblite_plugins{variant}_trt{self.major}.so",
        )

    def with_mistake(self, mistake: Mistake, folder: Path) -> PluginHost:
        """Return the usual host and a library with the mistake in one source."""
        source = SOURCES / mistake.file
        text = source.read_text()
        assert text.count(mistake.old) == 1, (
            f"{mistake.file} does not have exactly one {mistake.old!r}"
        )
        # The copy keeps the original's folders, where its includes are found.
        shutil.copytree(SOURCES, folder / "trt_code", ignore=shutil.ignore_patterns("*.py"))
        patched = folder / "trt_code" / mistake.file
        patched.write_text(text.replace(mistake.old, mistake.new))
        relative = Path(mistake.through or mistake.file)
        return PluginHost(self.host().program, self._relink(relative, folder))

    def _relink(self, relative: Path, folder: Path) -> Path:
        source = folder / "trt_code" / relative
        kernel = relative.suffix == ".cu"
        target = "kernels/CMakeFiles/lite_kernels.dir" if kernel else "CMakeFiles/lite_plugins.dir"
        object_name = relative.name if kernel else str(relative)
        flags = _flags(self.folder / target / "flags.make", "CUDA" if kernel else "CXX")
        compiler = ["nvcc"] if kernel else ["g++"]
        made = folder / "mistake.o"
        # The patched tree comes first among the include folders; a mistake may raise warnings.
        flags = [f"-I{folder / 'trt_code'}", *(f for f in flags if f not in STRICT), "-w"]
        _run([*compiler, *flags, "-c", str(source), "-o", str(made)])
        library = folder / f"liblite_plugins_trt{self.major}.so"
        link = shlex.split((self.folder / "CMakeFiles/lite_plugins.dir/link.txt").read_text())
        link[link.index("-o") + 1] = str(library)
        original = f"{target}/{object_name}.o"
        if kernel:  # the linker finds this object before it searches the archive
            link.insert(link.index("kernels/liblite_kernels.a"), str(made))
        else:
            link[link.index(original)] = str(made)
        _run(link, cwd=self.folder)
        return library


def plugin_build() -> PluginBuild:
    """The build against the TensorRT headers of this machine; skips where something is missing."""
    folder = next((f for f in header_folders() if (f / "NvInferVersion.h").is_file()), None)
    if folder is None:
        pytest.skip("no TensorRT headers (make doctor says how to get them)")
    return build_against(folder)


@functools.cache
def build_against(headers: Path) -> PluginBuild:
    """The build against the headers in a folder. A warning from our own sources fails it."""
    for program in ("cmake", "nvcc"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} to build the plugins with")
    version = (headers / "NvInferVersion.h").read_text()
    major = int(re.search(r"define (?:NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) (\d+)", version)[1])
    folder = PROJECT / "build/plugin_tests" / f"trt{major}"
    configure = [
        *("cmake", "-S", str(SOURCES), "-B", str(folder), "-G", "Unix Makefiles"),
        f"-DTENSORRT_ROOT={headers}",
        f"-DLITE_CUDA_ARCHITECTURES={_architecture()}",
        f"-DLITE_OUTPUT_DIR={folder / 'out'}",
        "-DLITE_SANITIZE=ON",
        "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",
    ]
    with one_at_a_time(folder.with_suffix(".lock")):
        _run(configure)
    _make(folder, "lite_plugin_loader")
    return PluginBuild(folder, major)


def _architecture() -> str:
    if torch.cuda.is_available():
        return "{}{}-real".format(*torch.cuda.get_device_capability())
    return "90-real"


@functools.cache
def _make(folder: Path, *targets: str) -> None:
    parallel = ["--parallel", str(os.cpu_count())]
    with one_at_a_time(folder.with_suffix(".lock")):
        _run(["cmake", "--build", str(folder), *parallel, "--target", *targets])


def _flags(path: Path, language: str) -> list[str]:
    text = path.read_text()
    # Kernels include files from their own folders, which CMake lists in a file.
    names = ("FLAGS",) if language == "CUDA" else ("INCLUDES", "FLAGS")
    values = [re.search(rf"^{language}_{name} = (.*)$", text, re.M) for name in names]
    return [flag for value in values if value for flag in shlex.split(value[1])]


def _run(command: list[str], cwd: Path | None = None) -> None:
    reply = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert reply.returncode == 0, f"{shlex.join(command)}\n{reply.stdout}{reply.stderr}"[-8000:]
