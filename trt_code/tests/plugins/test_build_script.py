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
SCRIPT = Path(__file__).parents[2] / "cmake" / "build.sh"
PROJECT = """
cmake_minimum_required(VERSION 3.24)
project(one LANGUAGES C)
add_library(one MODULE one.c)
set_target_properties(one PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${LITE_OUTPUT_DIR}/plugins")
"""
# Wraps the compiler. While a file "slow" exists it writes half an object and waits, like a compiler that is
# about to be killed.
LAUNCHER = """#!/bin/sh
echo compiled >>"$0.log"
[ -e "$0.slow" ] || exec "$@"
while [ "$1" != -o ]; do shift; done
printf half >"$2"
sleep 60
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the script, a project in place of trt_code, and a compiler that can be slow."""
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
    """Return the result of the installed library."""
    return ctypes.CDLL(str(checkout / "build/plugins/libone.so")).one()


def compilations(checkout: Path) -> int:
    return (checkout / "launcher.log").read_text().count("compiled")


def objects(checkout: Path) -> list[Path]:
    """The source's objects; os.walk tolerates folders that CMake removes meanwhile."""
    walk = os.walk(checkout / "build/cmake/plugins")
    return [Path(folder) / "one.c.o" for folder, _, files in walk if "one.c.o" in files]


def test_existing_files_are_not_built_again(checkout):
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


def test_half_an_object_from_a_killed_compiler_is_not_used(checkout):
    slow = checkout / "launcher.slow"
    slow.touch()
    process = start(checkout)
    deadline = time.monotonic() + 60
    while not (halves := objects(checkout)):
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


def test_a_mistake_is_one_line_at_the_end_and_needs_no_fresh_build(checkout):
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


def test_results_that_cmake_cached_during_a_failure_are_dropped(checkout):
    """On a full disk, a check of the compiler fails and CMake caches the result."""
    lists = checkout / "trt_code" / "CMakeLists.txt"
    refusal = 'if(WRONG)\n  message(FATAL_ERROR "wrong")\nendif()\n'
    lists.write_text(PROJECT + 'set(WRONG yes CACHE STRING "")\n' + refusal)
    status, errors = build(checkout)
    assert status == 2
    last = errors.splitlines()[-1]
    assert last.startswith("error: build/cmake/plugins could not be configured")
    lists.write_text(PROJECT + refusal)
    assert build(checkout)[0] == 0
    assert one(checkout) == 1


def test_a_mistake_in_options_needs_no_fresh_build(checkout):
    assert build(checkout)[0] == 0
    lists = checkout / "trt_code" / "CMakeLists.txt"
    lists.write_text(PROJECT + 'message(FATAL_ERROR "no such folder")\n')
    assert build(checkout)[0] == 2
    lists.write_text(PROJECT)
    assert build(checkout)[0] == 0
    assert compilations(checkout) == 1


# The build folder is on a disk of its own, which is full first and has space later.
SMALL_DISK = """
mkdir build && mount -t tmpfs -o size="$1" none build || exit 77
shift
"$@"
echo "status $?" >&2
mount -o remount,size=100m build
"$@"
echo "status $?" >&2
cp -r build/plugins outside
"""


@pytest.mark.parametrize("kilobytes", [100, 400, 2000, 5000])
def test_a_full_disk_is_reported_and_the_next_build_continues(checkout, kilobytes):
    """The disk has space for none or some of CMake's files, for no object, or for the object only."""
    (checkout / "trt_code" / "one.c").write_text(
        "char big[3000000] = {1};\nint one(void) { return big[0]; }\n"
    )
    command = ["sh", "trt_code/cmake/build.sh", "build/cmake/plugins", "build"]
    disk = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", f"{kilobytes}k"]
    reply = subprocess.run([*disk, *command], cwd=checkout, capture_output=True, text=True)
    if reply.returncode == 77 or "unshare" in reply.stderr:
        pytest.skip("no disk can be mounted here")
    first, second, _ = reply.stderr.split("status ")
    assert len([line for line in first.splitlines() if line.startswith("error: ")]) == 1, first
    assert first.splitlines()[-1].startswith("error: ")
    assert second.startswith("2\n")
    assert reply.stderr.endswith("status 0\n"), reply.stderr
    library = ctypes.CDLL(str(checkout / "outside/libone.so"))
    assert library.one() == 1


def test_two_at_once_take_turns(checkout):
    runs = [start(checkout), start(checkout)]
    replies = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], replies
    assert one(checkout) == 1
    assert compilations(checkout) == 1


@pytest.mark.parametrize("what", ["a file in its place", "no lock"])
def test_a_folder_that_cannot_be_written_is_reported(checkout, what):
    if what == "no lock":
        (checkout / "build/cmake/plugins.lock").mkdir(parents=True)
    else:
        (checkout / "build").write_text("a file\n")
    status, errors = build(checkout)
    assert status == 2
    assert errors.startswith("error: cannot write build/cmake/plugins; is there room on its disk")
    assert errors.count("\n") == 1
