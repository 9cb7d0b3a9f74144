"""What the real parser hands to a creator; skipped if no TensorRT that can parse is installed."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from plugin_attrs_issue import parse
from plugin_attrs_issue.show import make_model
from trt_code.tests.engine import real_tensorrt

README = Path(parse.__file__).with_name("README.md")


@pytest.fixture
def trt() -> ModuleType:
    return real_tensorrt.tensorrt()


def test_without_declared_fields_nothing_arrives_and_nothing_warns(trt: ModuleType) -> None:
    outcome = parse.parse_and_build(trt, make_model(), {})
    assert (outcome.arrived, outcome.said) == ({}, [])
    assert outcome.plan_bytes


def test_with_declared_fields_all_arrive(trt: ModuleType) -> None:
    outcome = parse.parse_and_build(trt, make_model(), parse.FIELDS)
    assert outcome.arrived == {
        "scalar": "FLOAT32 [2.5]",
        "times": "INT32 [3]",
        "offsets": "INT32 [10, 20, 30]",
        "mode": r"CHAR b'subtract\x00'",
    }
    assert outcome.said == []
    assert outcome.plan_bytes


def test_the_declared_type_does_not_matter(trt: ModuleType) -> None:
    others = {"scalar": "INT32", "times": "FLOAT32", "offsets": "FLOAT64", "mode": "INT32"}
    declared = parse.parse_and_build(trt, make_model(), parse.FIELDS)
    assert parse.parse_and_build(trt, make_model(), others).arrived == declared.arrived


def test_a_declared_field_that_the_node_lacks_is_warned_of(trt: ModuleType) -> None:
    outcome = parse.parse_and_build(trt, make_model({"scalar": 2.5}), parse.FIELDS)
    assert outcome.arrived == {"scalar": "FLOAT32 [2.5]"}
    for name, warning in zip(("times", "offsets", "mode"), outcome.said, strict=True):
        assert f"Attribute {name} not found in plugin node" in warning
    assert outcome.plan_bytes


def test_readme_shows_what_is_printed(trt: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    parse.main([])

    def shape(text: str) -> str:  # versions and sizes differ between releases
        return re.sub(r"RTX [\d.]+|, \d+ bytes", "#", text)

    assert shape(capsys.readouterr().out) in shape(README.read_text(encoding="utf-8"))
