"""The models give every translation that a page prints."""

import re
from pathlib import Path

import pytest

from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from trt_code.runners import create
from trt_code.text.translator import LineTranslator

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def translator():
    files = find_model("demo")
    with create("torch", files, "fp32", "cpu") as runner:
        yield LineTranslator(runner, Tokenizer.from_files(files))


def pairs(page: str) -> list[tuple[str, str]]:
    """Sources and translations: indented pairs of lines, after ``TEXT=``, in comments after ``translate``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r'\$ make translate TEXT="(.*)"\n +(.+)\n', text)
    if page == "doc/demo_task.md":
        found += re.findall(r"\n\n    (\w.*[a-z0-9])\n    (\w.*)\n\n## What", text)
    for call, comment in re.findall(r"translate\((\[.*?\])\)\n +# (\[.*\])", text):
        found += zip(*(re.findall(r"[\"'](.*?)[\"']", one) for one in (call, comment)), strict=True)
    return found


@pytest.mark.parametrize("page", ["README.md", "doc/demo_task.md", "doc/python.md"])
def test_a_printed_translation_is_the_models(page, translator):
    printed = pairs(page)
    assert printed
    found = translator.translate([source for source, _ in printed])
    assert [one.text for one in found] == [target for _, target in printed]


def test_the_readmes_first_example_is_the_models():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r'\$ make translate MODEL=(\S+) TEXT="(.*)"\n +(.+)\n', text)
    assert examples
    for model, source, target in examples:
        files = find_model(model)
        with create("torch", files, "fp32", "cpu") as runner:
            (found,) = LineTranslator(runner, Tokenizer.from_files(files)).translate([source])
        assert found.text == target


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("on the twenty-first of September?", "am einundzwanzigsten September?"),
        ("half past three", "halb vier"),
    ],
)
def test_a_translation_that_is_called_wrong_is_wrong(source, right, translator):
    """doc/demo_task.md names what the model gets wrong."""
    assert f"`{source}`" in (ROOT / "doc/demo_task.md").read_text(encoding="utf-8")
    (found,) = translator.translate([source])
    assert found.text != right
