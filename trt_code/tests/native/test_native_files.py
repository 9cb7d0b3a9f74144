"""Damaged programs, programs of other networks, and machines without a compiler: one line each."""

import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from train_model.cli import UserError
from train_model.model_folder import find_model
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.tests.networks import network, small
from trt_code import user_cache
from trt_code.native import export, library
from trt_code.native.program import LoadedProgram
from trt_code.native.search import search
from trt_code.native.translation import translate
from trt_code.runners import Unavailable, create
from trt_code.text.graphs import cache_folder

NUMBERS = [-1, 0, 1, 2, 3, 7, 16, 31, 33, 64, 1000, 65536, 65537, 2**31 - 1, 2**31, -(2**31)]
DAMAGED = "damaged or of another version"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "model.native.safetensors"
    export.to_program(network("dynamic")).save(path)
    return path


def read(path):
    with safetensors.safe_open(path, "np") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("format", "0"),
        ("program", "{"),
        ("program", "[]"),
        ("program", json.dumps({"registers": [], "operators": [["system", 1]]})),
        ("program", json.dumps({"registers": [["source", "rows", -1]], "operators": []})),
        ("config", "{}"),
        ("config", json.dumps(dict.fromkeys(("src_vocab", "tgt_vocab"), "many"))),
    ],
)
def test_other_metadata(path, tmp_path, change, value):
    metadata, tensors = read(path)
    save_file(tensors, tmp_path / "bad", metadata | {change: value})
    with pytest.raises(UserError, match=DAMAGED):
        LoadedProgram(library.load(), tmp_path / "bad")


def test_changed_numbers_are_refused_or_stay_within_memory(path, tmp_path):
    """Changes one number in each of 300 programs, and runs those that still load.

    A run under AddressSanitizer and UBSan, with the library built for them, found nothing either.
    """
    metadata, tensors = read(path)
    program = json.loads(metadata["program"])
    rng, refused = random.Random(0), 0
    for _ in range(300):
        operators = json.loads(json.dumps(program["operators"]))
        row = rng.choice(operators)
        at = rng.choice([i for i, value in enumerate(row) if type(value) in (int, float)])
        row[at] = rng.choice(NUMBERS)
        changed = metadata | {"program": json.dumps(program | {"operators": operators})}
        save_file(tensors, tmp_path / "bad", changed)
        try:
            loaded = LoadedProgram(library.load(), tmp_path / "bad")
        except UserError:
            refused += 1
            continue
        search(loaded, np.full((3, 5), 4), SearchOptions(beam=2, max_len_b=4), 2)
        loaded.close()
    assert refused > 150


def test_other_tensors(path, tmp_path):
    metadata, tensors = read(path)
    for key, tensor in tensors.items():
        for other in (tensor.astype(np.float16), tensor[None]):
            save_file(tensors | {key: np.ascontiguousarray(other)}, tmp_path / "bad", metadata)
            with pytest.raises(UserError, match=DAMAGED):
                LoadedProgram(library.load(), tmp_path / "bad")


def larger_program(program, kind):
    """Programs of a few kilobytes that would take gigabytes or hours."""
    width = next(columns for _, _, columns in program["registers"])
    match kind:
        case "columns":
            program["registers"] += [["source", "rows", 2**24]] * 100
        case "registers":
            program["registers"] += [["source", "rows", 1]] * 10_001
        case "operators":
            program["operators"] += [["add", "source", 0, width, 0]] * 10_001
        case "copies of weights":
            linear = next(row for row in program["operators"] if row[0] == "linear")
            program["operators"] += [linear] * 9_000
    return program


@pytest.mark.parametrize("kind", ["columns", "registers", "operators", "copies of weights"])
def test_sizes_beyond_the_weights_are_refused(path, tmp_path, kind):
    metadata, tensors = read(path)
    program = larger_program(json.loads(metadata["program"]), kind)
    save_file(tensors, tmp_path / "bad", metadata | {"program": json.dumps(program)})
    with pytest.raises(UserError, match=DAMAGED):
        LoadedProgram(library.load(), tmp_path / "bad")


@pytest.mark.parametrize("name", ["src_vocab", "tgt_vocab", "max_target_positions"])
@pytest.mark.parametrize("value", [0, 2**31 - 1, 10**12, 1e12, None])
def test_impossible_sizes_of_the_network(path, tmp_path, name, value):
    metadata, tensors = read(path)
    config = json.dumps(json.loads(metadata["config"]) | {name: value})
    save_file(tensors, tmp_path / "bad", metadata | {"config": config})
    with pytest.raises(UserError, match=DAMAGED):
        LoadedProgram(library.load(), tmp_path / "bad")


def test_a_closed_network_is_refused(path):
    program = LoadedProgram(library.load(), path)
    program.close()
    program.close()
    with pytest.raises(UserError, match="the network is closed"):
        search(program, np.array([[4, 2]]), SearchOptions(beam=2, max_len_b=4), 1)


def test_threads_share_a_network_that_one_of_them_closes(path):
    """Each call gives the result of a lone caller, or the error of a closed network."""
    program = LoadedProgram(library.load(), path)
    source, options = np.full((3, 9), 4), SearchOptions(beam=2, max_len_b=8)
    expected = search(program, source, options, 1).tokens
    ends = []

    def call(number):
        try:
            for i in range(60):
                assert np.array_equal(search(program, source, options, 2).tokens, expected)
                if (number, i) == (0, 30):
                    program.close()
        except UserError as error:
            ends.append(str(error))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(call, range(6)))
    assert len(ends) >= 1
    assert set(ends) == {"the network is closed; open it again"}


def test_a_forked_process_translates(path):
    program = LoadedProgram(library.load(), path)
    source, options = np.full((3, 9), 4), SearchOptions(beam=2, max_len_b=8)
    expected = search(program, source, options, 2).tokens
    child = os.fork()
    if not child:
        status = 1
        try:
            status = int(not np.array_equal(search(program, source, options, 2).tokens, expected))
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_not_a_file_of_ours(tmp_path):
    (tmp_path / "text").write_text("no")
    for name, message in (("text", DAMAGED), ("none", "cannot read .*make native")):
        with pytest.raises(UserError, match=message):
            LoadedProgram(library.load(), tmp_path / name)


def test_inputs_that_the_network_does_not_accept(path):
    program = LoadedProgram(library.load(), path)
    options = SearchOptions(beam=2, max_len_b=4)
    with pytest.raises(UserError, match="token 40 is not in a vocabulary of 40"):
        search(program, np.array([[4, 40]]), options, 1)
    with pytest.raises(UserError, match="a source of 41 tokens is longer than the 40 positions"):
        search(program, np.full((2, 41), 4), options, 2)
    with pytest.raises(UserError, match="a beam of 24 does not fit a vocabulary of 48"):
        search(program, np.array([[4, 2]]), SearchOptions(beam=24), 1)
    with pytest.raises(UserError, match="sizes do not fit"):  # it is not a one-pass network
        translate(program, np.array([[4, 2]]), 1)


def test_scores_that_are_not_numbers(tmp_path, path):
    metadata, tensors = read(path)
    save_file({key: x * np.nan for key, x in tensors.items()}, tmp_path / "nan", metadata)
    program = LoadedProgram(library.load(), tmp_path / "nan")
    found = search(program, np.full((2, 5), 4), SearchOptions(beam=2, max_len_b=4), 1)
    assert not found.counts.any()  # which SearchRunner reports
    export.to_program(small()).save(tmp_path / "one")
    metadata, tensors = read(tmp_path / "one")
    save_file({key: x * np.nan for key, x in tensors.items()}, tmp_path / "nan", metadata)
    scores = translate(LoadedProgram(library.load(), tmp_path / "nan"), np.full((2, 5), 4), 1)[1]
    assert not np.isfinite(scores).any()  # which run_batch reports


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """A folder for a library that has not been compiled."""
    place = tmp_path / "native" / "library.so"
    monkeypatch.setattr(library, "library_path", lambda: place)
    monkeypatch.delenv("CXX", raising=False)
    library.load.cache_clear()
    yield place
    library.load.cache_clear()


def compiler(path, script):
    """Write a program for CXX=, which is called as a compiler."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_machine_without_a_compiler(monkeypatch, tmp_path, tiny_files, compiled):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    with pytest.raises(library.NoLibrary, match="there is no C\\+\\+ compiler"):
        library.find_compiler()
    assert not library.has_compiler()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.native.safetensors").touch()
    with pytest.raises(Unavailable, match="there is no C\\+\\+ compiler"):
        create("native", tiny_files, "fp32", "cpu", build_dir=tmp_path)
    assert not compiled.exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "cannot run .*: No such file"),
        ("exit 1", "cannot compile the native runner: status 1"),
        ("echo a warning >&2; echo 'x.cpp: error: no <new>' >&2; exit 1", "runner: x.cpp: error: "),
        ("echo 'ld: final link failed: full' >&2; echo 'error: ld 1' >&2; exit 1", "failed: full"),
        ("printf 'f\\374r: error\\n' >&2; exit 1", "cannot compile the native runner: f"),
        ("kill -9 $$", "cannot compile the native runner: status -9"),
        ("exit 0", "wrote no library"),
        ('for last; do :; done; echo text > "$last"', "wrote no library"),
        ("cat >&2; exit 1", "cannot compile the native runner: status 1"),
    ],
)
def test_a_compiler_that_fails(monkeypatch, tmp_path, compiled, script, message):
    """A failed compiler leaves no library, and does not read the program's standard input."""
    place = tmp_path / "cxx"
    monkeypatch.setenv("CXX", compiler(place, script) if script else str(place))
    with pytest.raises(library.NoLibrary, match=message):
        library.load()
    assert [path.name for path in compiled.parent.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("command", "message"),
    [("g++ 'open", r"CXX=g.. 'open is not a command"), (" ", "CXX is blank; leave it out")],
)
def test_a_compiler_command_that_no_shell_reads(monkeypatch, command, message):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(library.NoLibrary, match=message):
        library.find_compiler()
    assert not library.has_compiler()


def test_another_compiler_makes_another_library(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    paths = [library.library_path()]
    for name in ("clang++", "g++ -march=x86-64"):
        monkeypatch.setenv("CXX", name)
        paths.append(library.library_path())
    assert len(set(paths)) == 3


def test_a_library_that_cannot_be_stored(monkeypatch, tmp_path, compiled):
    (tmp_path / "native").touch()  # root can write to read-only folders
    with pytest.raises(library.NoLibrary, match=r"the native library has no place: .*exists"):
        library.load()


def test_a_user_without_a_home_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "ROOT", tmp_path)  # no clone
    for name in (user_cache.CACHE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31)
    library.load.cache_clear()
    with pytest.raises(library.NoLibrary, match=rf"no home folder.*{user_cache.CACHE}="):
        library.load()
    with pytest.raises(UserError, match="no home folder"):
        cache_folder(find_model("demo"))


def test_a_damaged_library_is_named(compiled):
    compiled.parent.mkdir()
    compiled.write_bytes(b"\x7fELF")
    with pytest.raises(library.NoLibrary, match=r"cannot load .*library.so: .*; delete it"):
        library.load()


def test_two_processes_compile_once(tmp_path):
    """The second process waits for the first. A killed third process leaves no library."""
    script = compiler(tmp_path / "cxx", f'echo >> {tmp_path}/calls; sleep 1; exec c++ "$@"')
    code = f"""
from pathlib import Path
from trt_code.native import library
library.SOURCES = Path({str(tmp_path)!r})
library.library_path = lambda: Path({str(tmp_path)!r}) / "native" / "library.so"
library.load()"""
    (tmp_path / "small.cpp").write_text(
        'extern "C" { const char* lite_error() { return ""; } void* lite_program() { return 0; } }'
    )
    root = Path(library.__file__).parents[2]
    start = functools.partial(
        subprocess.Popen,
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | {"CXX": script},
        stderr=subprocess.DEVNULL,
    )
    killed = start(start_new_session=True)
    while not (tmp_path / "calls").exists():
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "native" / "library.so").exists()
    both = [start(), start()]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "calls").read_text() == "\n" * 2


def test_another_dictionary_is_refused(tiny_files, tmp_path):
    (tmp_path / "tiny").mkdir()
    export.to_program(small()).save(tmp_path / "tiny" / "model.native.safetensors")
    with pytest.raises(Unavailable, match=r"was exported for .*make native MODEL=tiny"):
        create("native", tiny_files, "fp32", "cpu", build_dir=tmp_path)


def test_a_program_of_another_network_is_refused(tiny_files, tmp_path):
    (tmp_path / "tiny").mkdir()
    program = export.to_program(load_checkpoint(tiny_files.checkpoint).model)
    program.save(tmp_path / "tiny" / "model.native.safetensors")
    other = dataclasses.replace(tiny_files, architecture="transformer_multibranch_v2")
    with pytest.raises(Unavailable, match="is a conv_crf_transformer, not a transformer_multi"):
        create("native", other, "fp32", "cpu", build_dir=tmp_path)
