"""How CMake finds TensorRT's headers, and its message if they are missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

MODULES = Path(__file__).parents[2] / "cmake"
PROJECT = """
cmake_minimum_required(VERSION 3.24)
project(find LANGUAGES NONE)
list(APPEND CMAKE_MODULE_PATH "{modules}")
find_package(TensorRT 10.0...<12 REQUIRED)
message(STATUS "got ${{TensorRT_VERSION}} in ${{TensorRT_INCLUDE_DIR}}")
"""
OLD_STYLE = """#define NV_TENSORRT_MAJOR {} //!< major
#define NV_TENSORRT_MINOR {}
#define NV_TENSORRT_PATCH 7
"""
NEW_STYLE = """#define TRT_MAJOR_ENTERPRISE {}
#define TRT_MINOR_ENTERPRISE {}
#define TRT_PATCH_ENTERPRISE 7
#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< major
"""

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")


def headers(root: Path, style: str, major: int, minor: int) -> Path:
    root.mkdir(parents=True)
    (root / "NvInferVersion.h").write_text(style.format(major, minor))
    return root


def configure(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "CMakeLists.txt").write_text(PROJECT.format(modules=MODULES))
    command = ["cmake", "-S", str(folder), "-B", str(folder / "build"), *options]
    path = {"PATH": str(Path(shutil.which("cmake")).parent) + ":/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=path | environment)


@pytest.mark.parametrize("style", [OLD_STYLE, NEW_STYLE], ids=["NV_TENSORRT", "ENTERPRISE"])
@pytest.mark.parametrize("variable", ["TENSORRT_ROOT", "TENSORRT_HOME"])
def test_found_by_name(tmp_path: Path, style: str, variable: str) -> None:
    include = headers(tmp_path / "trt/include", style, 10, 16)
    for root in (tmp_path / "trt", include):
        assert f"got 10.16.7 in {include}" in configure(tmp_path, f"-D{variable}={root}").stdout
        shutil.rmtree(tmp_path / "build")
        assert f"got 10.16.7 in {include}" in configure(tmp_path, **{variable: str(root)}).stdout
        shutil.rmtree(tmp_path / "build")


def test_another_root_in_the_same_build_folder_is_seen(tmp_path: Path) -> None:
    for major in (10, 11):
        root = headers(tmp_path / str(major) / "include", NEW_STYLE, major, 1)
        assert f"got {major}.1.7 in {root}" in configure(tmp_path, TENSORRT_ROOT=str(root)).stdout


def test_named_place_without_headers_says_where_and_how(tmp_path: Path) -> None:
    reply = configure(tmp_path, f"-DTENSORRT_ROOT={tmp_path / 'nowhere'}")
    assert reply.returncode != 0
    assert f"{tmp_path}/nowhere/include\n" in reply.stderr
    assert "make headers" in reply.stderr
    assert "/opt/tensorrt" not in reply.stderr  # another TensorRT is not used silently


@pytest.mark.parametrize(("major", "found"), [(9, False), (10, True), (11, True), (12, False)])
def test_versions(tmp_path: Path, major: int, found: bool) -> None:
    headers(tmp_path / "trt/include", NEW_STYLE, major, 0)
    reply = configure(tmp_path, f"-DTENSORRT_ROOT={tmp_path / 'trt'}")
    assert (reply.returncode == 0) == found
