"""The library that registers the plugins in Triton, opened as Triton opens it. No TensorRT is involved:
a stand-in for libnvinfer has a registry that only prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trt_code.tests.plugins.plugin_build import PluginBuild, plugin_build

pytestmark = pytest.mark.tensorrt_headers


@pytest.fixture(scope="module")
def build() -> PluginBuild:
    return plugin_build()


def open_library(path: Path, libraries: Path) -> subprocess.CompletedProcess:
    code = "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW | os.RTLD_LOCAL)"
    return subprocess.run(
        [sys.executable, "-c", code, path],
        env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def nvinfer(build, tmp_path) -> Path:
    """A folder with the stand-in as ``libnvinfer.so.<major>``."""
    flags = Path(build.folder / "CMakeFiles/lite_plugins.dir/flags.make").read_text()
    (includes,) = (line for line in flags.splitlines() if line.startswith("CXX_INCLUDES"))
    source = Path(__file__).parents[1] / "plugins" / "fake_nvinfer.cpp"
    command = ["g++", "-std=c++17", "-w", "-shared", "-fPIC", *includes.split("=")[1].split()]
    library = tmp_path / f"libnvinfer.so.{build.major}"
    subprocess.run([*command, source, "-o", library, "-ldl"], check=True)
    return tmp_path


def test_opening_it_registers_the_plugins_next_to_it(build, nvinfer):
    plugins = build.folder / "out/plugins"
    reply = open_library(plugins / f"liblite_plugins_trt{build.major}_loader.so", nvinfer)
    assert reply.returncode == 0
    assert reply.stderr == ""
    assert reply.stdout == f"{plugins}/liblite_plugins_trt{build.major}.so 4\n"


def test_missing_files_are_reported(build, nvinfer):
    name = f"liblite_plugins_trt{build.major}_loader.so"
    alone = shutil.copy(build.folder / "out/plugins" / name, nvinfer)
    assert "TensorRT refuses" in open_library(alone, nvinfer).stderr
    assert f"libnvinfer.so.{build.major}" in open_library(alone, nvinfer / "empty").stderr
