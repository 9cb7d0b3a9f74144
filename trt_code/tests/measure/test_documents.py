"""JSON and YAML files of a wrong form: every reader gives a result or one line."""

import copy
import json
import os
from pathlib import Path

import pytest

from train_model import loss_curves, recipe
from train_model.cli import UserError
from train_model.data.transfer import Ledger
from train_model.documents import parse_yaml
from train_model.model_folder import read_folder
from trt_code import report
from trt_code.engine.sidecar import read_sidecar
from trt_code.measure import layer_precision, roofline
from trt_code.stress.fuzz import SIDECAR
from trt_code.triton import cost

RESULTS = Path(__file__).parents[3] / "doc" / "results"
ENTRY = '| train_inner | {"num_updates": "2", "loss": "9", "gnorm": "1"}\n'
LAYERS = {
    "Layers": [
        {
            "Name": "a",
            "LayerType": "gemm",
            "TacticName": "x",
            "Metadata": "[ONNX Layer: fc]",
            "Inputs": [{"Format/Datatype": "Int8"}],
        }
    ]
}
BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{last}, *{last}]\n"
    for last, name in zip("abcdefghij", "bcdefghijk", strict=True)
)
NO_DOCUMENTS = {
    "empty": b"",
    "cut": b'{"rows": [',
    "deep": b"[" * 100_000,
    "latin-1": b'{"name": "f\xfcr"}',
    "utf-16": '{"rows": []}'.encode("utf-16"),
    "zeros": bytes(1000),
    "digits": b"1" * 5000,
}
OTHER_VALUES = (None, [], {}, -1, "x", float("nan"), 10**400, [[]])


def _kernels(path: Path) -> None:
    roofline.main(
        ["--kernels", str(path), "--ceilings", _given("roofline"), "--output", _output(path)]
    )


def _ceilings(path: Path) -> None:
    roofline.main(["--ceilings", str(path), "--output", _output(path)])


def _given(name: str) -> str:
    return str(next(RESULTS.rglob(f"{name}.json")))


def _output(path: Path) -> str:
    return str(path.parent / "out")


def _sidecar(path: Path) -> None:
    plan = path.with_suffix("")
    plan.write_bytes(b"whole")
    read_sidecar(plan)


READERS = {
    "results": (lambda path: report.main(["--results", str(path)]), RESULTS / "cpu/results.json"),
    "rates": (
        lambda path: cost.main(["--measured", str(path), "--price-per-hour", "2"]),
        RESULTS / "cpu/results.json",
    ),
    "kernels": (_kernels, _given("kernels")),
    "ceilings": (_ceilings, _given("roofline")),
    "layers": (lambda path: layer_precision.main([str(path)]), LAYERS),
    "ledger": (lambda path: Ledger(path), {"a": {"size": 1, "sha256": "0"}}),
    "sidecar": (_sidecar, SIDECAR),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Replaces the plots, which are slow and not tested here."""
    for module in (report, roofline):
        monkeypatch.setattr(module, "plot", lambda results, path: path.touch())


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_not_a_document_is_one_line(name, tmp_path):
    read, _ = READERS[name]
    path = tmp_path / "m.plan.json"
    for content in NO_DOCUMENTS.values():
        path.write_bytes(content)
        with pytest.raises(UserError):
            read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is not a file"):
        read(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is not a file"):
        read(path)


@pytest.mark.parametrize("name", READERS)
def test_a_document_of_another_form_is_one_line(name, tmp_path):
    read, given = READERS[name]
    good = _short(given if isinstance(given, dict) else json.loads(Path(given).read_bytes()))
    path = tmp_path / "m.plan.json"
    path.write_text(json.dumps(good))
    read(path)  # the unchanged document is accepted
    refused = 0
    for content in _changed(good):
        path.write_text(json.dumps(content))
        try:
            read(path)
        except UserError:
            refused += 1
    assert refused


def _short(value):
    """Return a document with the first two items of every list."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    return [_short(inner) for inner in value[:2]] if isinstance(value, list) else value


def _changed(good: dict):
    """Yield copies of a document with another value, or without the value, at one place of each level."""
    yield from OTHER_VALUES
    for place in _places(good):
        for value in (*OTHER_VALUES, KeyError):
            content = copy.deepcopy(good)
            *way, last = place
            parent = content
            for step in way:
                parent = parent[step]
            if value is KeyError:
                del parent[last]
            else:
                parent[last] = value
            yield content


def _places(value: object, way: tuple = ()):
    """Yield the path to each value; of a list, only to the first item."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, inner in items:
        yield (*way, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*way, key))


@pytest.mark.parametrize(
    "line",
    ["{", "{}", '{"num_updates": "1"}', ENTRY.replace('"9"', "NaN")[16:], "{" * 100_000, "{\xfc}"],
)
def test_a_log_of_another_form_is_one_line(line, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(ENTRY.encode() + b"| train_inner | " + line.encode("latin-1") + b"\n")
    with pytest.raises(UserError, match="is not a log of a training in JSON"):
        loss_curves.read(path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (BOMB, "has an alias"),
        ("x: 1\nx: 2", "comes twice"),
        ("[" * 20_000, "is not YAML"),
        ("\x00", "is not YAML"),
        ("!!python/object/apply:os.system [id]", "is not YAML"),
        ("9" * 5000, "is not YAML"),
        ("!!map [1]", "is not YAML"),
        ("2001-99-99", "is not YAML"),
    ],
)
def test_invalid_yaml_and_yaml_that_could_fill_the_memory_are_one_line(
    value, reason, tmp_path, monkeypatch
):
    with pytest.raises(UserError, match=reason):
        parse_yaml(value, "x", "of a test", "mend it")
    with pytest.raises(UserError, match=reason):
        recipe.load("demo", [f"lr={value}"])
    (tmp_path / "model.yaml").write_text(
        f"architecture: conv_crf_transformer\noptions:\n  {value}\n"
    )
    with pytest.raises(UserError):
        read_folder(tmp_path)
    monkeypatch.setattr(recipe, "CONFIGS", tmp_path)
    (tmp_path / "own.yaml").write_text(f"summary: s\ncorpus: c\nflags:\n  - {value}\n")
    with pytest.raises(UserError):
        recipe.load("own")


@pytest.mark.parametrize(
    "value", [".nan", "[1, .inf]", "{a: 2020-01-01}", "!!set {a, b}", "!!binary aGk="]
)
def test_a_flag_is_text_or_a_finite_number(value):
    with pytest.raises(UserError, match=r"write (a finite one|text and numbers)"):
        recipe.load("demo", [f"lr={value}"])


def test_a_value_of_a_usual_form_is_taken():
    loaded = recipe.load("demo", ["lr=[0.1, 1e-3]", "eval_bleu_args={beam: 4}", "fp16=true"])
    assert loaded.flags["eval_bleu_args"] == {"beam": 4}
