"""trt_code/cmake/build.sh on a project of one source: kills, failures, two runs at once."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not shutil.which("cmake") or not shutil.which("cc"), reason="no cmake or no C compiler"
)
SCRIPT = Path(__file__).parents[1] / "cmake" / "build.sh"
PROJECT = """
cmake_minimum_required(VERSION 3.24)
project(one LANGUAGES C)
add_library(one MODULE one.c)
set_target_properties(one PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${LITE_OUTPUT_DIR}/plugins")
"""
# In front of the compiler. While a file "slow" is there it leaves half an object and takes its time, as a
# compiler does that is about to be killed.
LAUNCHER = """#!/bin/sh
echo compiled >>"$0.log"
[ -e "$0.slow" ] || exec "$@"
while [ "$1" != -o ]; do shift; done
printf half >"$2"
sleep 60
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the script, a project in the place of trt_code, and a compiler that can be slow."""
    (tmp_path / "trt_code" / "cmake").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "trt_code" / "cmake")
    (tmp_path / "trt_code" / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "trt_code" / "one.c").write_text("int one(void) { return 1; }\n")
    launcher = tmp_path / "launcher"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    return tmp_path


def start(checkout: Path) -> subprocess.Popen:
    launcher = f"-DCMAKE_C_COMPILER_LAUNCHER={checkout}/launcher"
    command = ["sh", "trt_code/cmake/build.sh", "build/cmake/plugins", "build", launcher]
    return subprocess.Popen(
        command,
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def build(checkout: Path) -> tuple[int, str]:
    process = start(checkout)
    _, errors = process.communicate()
    return process.returncode, errors


def one(checkout: Path) -> int:
    """What the library that was put in its place gives."""
    return ctypes.CDLL(str(checkout / "build/plugins/libone.so")).one()


def compilations(checkout: Path) -> int:
    return (checkout / "launcher.log").read_text().count("compiled")


def test_what_is_there_is_not_built_again(checkout):
    assert build(checkout)[0] == 0
    assert one(checkout) == 1
    library = checkout / "build/plugins/libone.so"
    before = library.stat().st_mtime_ns
    assert build(checkout)[0] == 0
    assert compilations(checkout) == 1
    assert library.stat().st_mtime_ns == before
    library.unlink()
    assert build(checkout)[0] == 0
    assert one(checkout) == 1


def test_half_an_object_that_a_killed_compiler_left_is_not_taken(checkout):
    slow = checkout / "launcher.slow"
    slow.touch()
    process = start(checkout)
    deadline = time.monotonic() + 60
    while not (halves := list(checkout.glob("build/cmake/plugins/**/one.c.o"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert halves[0].read_text() == "half"
    assert not (checkout / "build/plugins").exists()
    slow.unlink()
    assert build(checkout)[0] == 0
    assert one(checkout) == 1


def test_a_mistake_is_one_line_at_the_end_and_costs_no_new_start(checkout):
    assert build(checkout)[0] == 0
    source = checkout / "trt_code" / "one.c"
    good = source.read_text()
    source.write_text("int one(void) { return }\n")
    status, errors = build(checkout)
    assert status == 2
    assert errors.splitlines()[-1].startswith("error: build/cmake/plugins could not be built")
    source.write_text(good)
    cache = (checkout / "build/cmake/plugins/CMakeCache.txt").stat().st_ino
    assert build(checkout)[0] == 0
    assert (checkout / "build/cmake/plugins/CMakeCache.txt").stat().st_ino == cache


def test_two_at_once_take_turns(checkout):
    runs = [start(checkout), start(checkout)]
    replies = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], replies
    assert one(checkout) == 1
    assert compilations(checkout) == 1


@pytest.mark.parametrize("what", ["a file in its place", "no lock"])
def test_a_folder_that_cannot_be_written_is_told(checkout, what):
    if what == "no lock":
        (checkout / "build/cmake/plugins.lock").mkdir(parents=True)
    else:
        (checkout / "build").write_text("a file\n")
    status, errors = build(checkout)
    assert status == 2
    assert errors.startswith("error: cannot write build/cmake/plugins; is there room on its disk")
    assert errors.count("\n") == 1
