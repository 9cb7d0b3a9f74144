"""Damaged files and text of any kind give a result or one line; more cases: ``trt_code.tests.fuzz``."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trt_code.tests.fuzz import Targets, outcome

# The surgeon and ONNX Runtime work for a while on what is whole enough.
COUNTS = {"onnx": 25, "surgeon": 10}
COUNTS |= dict.fromkeys(["recipe", "dictionary", "bpe", "sidecar", "text"], 50)


@pytest.fixture(scope="module")
def targets(tiny_files, tiny_build, tmp_path_factory):
    graph = tiny_build / tiny_files.name / "model.onnx"
    return Targets(tiny_files, graph, tmp_path_factory.mktemp("damaged")).all()


def test_every_target_is_tried(targets):
    assert targets.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_damage_gives_a_result_or_one_line(name, targets):
    @settings(max_examples=COUNTS[name], deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def any_case(number):
        assert outcome(targets[name], number) in ("result", "refused")

    any_case()
