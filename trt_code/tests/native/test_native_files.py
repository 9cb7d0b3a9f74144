"""Damaged programs, programs of other networks, and machines without a compiler: one line each."""

import json
import random

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from train_model.cli import UserError
from train_model.models.hypotheses import SearchOptions
from train_model.tests.networks import network, small
from trt_code.native import export, library
from trt_code.native.program import LoadedProgram
from trt_code.native.search import search
from trt_code.native.translation import translate
from trt_code.runners import Unavailable, create

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
    """One number in each of 300 programs; what still loads is run.

    Under AddressSanitizer and UBSan too this finds nothing (once, with the library built with them).
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


def test_not_a_file_of_ours(tmp_path):
    (tmp_path / "text").write_text("no")
    for name, message in (("text", DAMAGED), ("none", "cannot read .*make native")):
        with pytest.raises(UserError, match=message):
            LoadedProgram(library.load(), tmp_path / name)


def test_what_the_network_does_not_take(path):
    program = LoadedProgram(library.load(), path)
    options = SearchOptions(beam=2, max_len_b=4)
    with pytest.raises(UserError, match="token 40 is not in a vocabulary of 40"):
        search(program, np.array([[4, 40]]), options, 1)
    with pytest.raises(UserError, match="a source of 41 tokens is longer than the 40 positions"):
        search(program, np.full((2, 41), 4), options, 2)
    with pytest.raises(ValueError, match="a beam of 24 does not fit a vocabulary of 48"):
        search(program, np.array([[4, 2]]), SearchOptions(beam=24), 1)
    with pytest.raises(UserError, match="sizes do not fit"):  # it is no one-pass network
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


def test_a_machine_without_a_compiler(monkeypatch, tmp_path, tiny_files):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(library.NoCompiler, match="there is no C\\+\\+ compiler"):
        library.find_compiler()
    assert not library.has_compiler()
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "native" / "library.so")
    library.load.cache_clear()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.native.safetensors").touch()
    try:
        with pytest.raises(Unavailable, match="there is no C\\+\\+ compiler"):
            create("native", tiny_files, "fp32", "cpu", build_dir=tmp_path)
        for compiler, message in (
            ("/no/compiler", "cannot run /no/compiler"),
            ("false", "false cannot compile the native runner: status 1"),
        ):
            monkeypatch.setenv("CXX", compiler)
            with pytest.raises(library.NoCompiler, match=message):
                library.load()
    finally:
        library.load.cache_clear()
    assert not (tmp_path / "native" / "library.so").exists()


def test_another_dictionary_is_refused(tiny_files, tmp_path):
    (tmp_path / "tiny").mkdir()
    export.to_program(small()).save(tmp_path / "tiny" / "model.native.safetensors")
    with pytest.raises(Unavailable, match=r"was exported for .*make native MODEL=tiny"):
        create("native", tiny_files, "fp32", "cpu", build_dir=tmp_path)
