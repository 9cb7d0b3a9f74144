"""Damaged files and any text give a result or one line; ``trt_code.stress.fuzz`` runs more cases."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_export import export
from trt_code import onnx_surgeon
from trt_code.stress import fuzz
from trt_code.stress.fuzz import Targets, outcome

# Cases that are not too damaged go through the surgeon and ONNX Runtime, which takes longer.
COUNTS = {"checkpoint": 20, "onnx": 20, "patched": 10, "halves": 10, "surgeon": 10}
COUNTS |= dict.fromkeys(["description", "safetensors", "native", "import"], 20)
COUNTS |= dict.fromkeys(["recipe", "dictionary", "bpe", "plan", "sidecar", "results"], 40)
COUNTS |= dict.fromkeys(["documents", "text"], 40)


@pytest.fixture(scope="module")
def targets(tiny_files, tmp_path_factory):
    built, halves = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("halves")
    for checkpoint, folder in zip(fuzz.CHECKPOINTS, (built, halves), strict=True):
        export.main(["--checkpoint", str(checkpoint), "--output", str(folder / "model.onnx")])
    model, patched = built / "model.onnx", built / "model.fp16.onnx"
    onnx_surgeon.main(["--input", str(model), "--output", str(patched), "--precision", "fp16"])
    return Targets(tiny_files, built, halves, tmp_path_factory.mktemp("damaged")).all()


def test_every_target_is_tried(targets):
    assert targets.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_undamaged_input_gives_a_result(name, targets, monkeypatch):
    """A target that refused everything would pass all its cases."""
    for how in ("damage", "damage_checkpoint", "damage_graph", "damage_json"):
        monkeypatch.setattr(fuzz, how, lambda content, *_: content)
    assert any(outcome(targets[name], number) == "result" for number in range(10))


@pytest.mark.parametrize("name", COUNTS)
def test_damage_gives_a_result_or_one_line(name, targets):
    @settings(max_examples=COUNTS[name], deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def any_case(number):
        assert outcome(targets[name], number) in ("result", "refused")

    any_case()
