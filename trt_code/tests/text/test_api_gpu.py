"""``Translator`` on a GPU: its translations with the committed models are those of PyTorch on the CPU."""

import concurrent.futures

import pytest

from train_model.ops import load_cuda_library
from trt_code.tests.runners.small_demo import ROOT
from trt_code.text import api

pytestmark = pytest.mark.gpu

MODELS = ("demo", "demo-ar")
LINES = 100
RUNNERS = [
    "torch",
    pytest.param(
        "cuda-graph",
        marks=pytest.mark.skipif(
            not load_cuda_library(), reason="the CUDA operators are not built (make torch-ops)"
        ),
    ),
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return (ROOT / "data_model/demo/test.en").read_text(encoding="utf-8").splitlines()[:LINES]


@pytest.fixture(scope="module")
def expected(lines):
    """PyTorch's translations in FP32 on the CPU: each model's best one, and its best three."""
    found = {}
    for model in MODELS:
        with api.Translator(
            ROOT / "data_model" / model, runner="torch", device="cpu", threads=2
        ) as translator:
            several = translator.translate_batch(lines[:20], n_best=3, return_scores=False).texts
            found[model] = translator.translate(lines), several
    return found


def on_gpu(model: str, runner: str, precision: str) -> api.Translator:
    return api.Translator(
        ROOT / "data_model" / model, runner=runner, device="cuda", precision=precision
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(("precision", "least"), [("fp32", 1.0), ("tf32", 0.98), ("fp16", 0.98)])
def test_translations_are_those_of_the_cpu(model, runner, precision, least, lines, expected):
    with on_gpu(model, runner, precision) as translator:
        assert (translator.runner, translator.device, translator.precision) == (
            runner,
            "cuda",
            precision,
        )
        found = translator.translate(lines)
    equal = sum(a == b for a, b in zip(found, expected[model][0], strict=True))
    assert equal >= least * len(lines)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_several_translations_and_their_scores(model, runner, lines, expected):
    with on_gpu(model, runner, "fp32") as translator:
        found = translator.translate_batch(lines[:20], n_best=3)
        # a second call gives the same: no state of lengths remains from the first
        again = translator.translate_batch(lines[:20], n_best=3)
        best = translator.translate(lines[:20])
    if model == "demo":  # a search with another beam may find another best translation
        assert best == [texts[0] for texts in found.texts]
    assert found.texts == again.texts == expected[model][1]
    assert all(len(scores) == 3 for scores in found.scores)
    # the first translation of a one-pass network has the predicted length; the others are sorted by score
    first = 1 if model == "demo" else 0
    assert all(scores[first:] == sorted(scores[first:], reverse=True) for scores in found.scores)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_threads_share_a_translator(model, runner, lines, expected):
    with (
        on_gpu(model, runner, "fp32") as translator,
        concurrent.futures.ThreadPoolExecutor(6) as threads,
    ):
        found = list(threads.map(lambda line: translator.translate([line])[0], lines[:40]))
    assert found == expected[model][0][:40]


def test_auto_takes_the_gpu_in_fp16(lines, expected, tmp_path):
    with api.Translator(ROOT / "data_model/demo", cache=tmp_path) as translator:
        assert (translator.device, translator.precision) == ("cuda", "fp16")
        found = translator.translate(lines)
    equal = sum(a == b for a, b in zip(found, expected["demo"][0], strict=True))
    assert equal >= 0.98 * len(lines)


def test_a_closed_translator_says_so(lines):
    translator = on_gpu("demo", "torch", "fp16")
    translator.close()
    with pytest.raises(ValueError, match="closed"):
        translator.translate(lines[:1])
