"""The load test ``under_load.py``: real runners pass, and it detects faults of every kind."""

import dataclasses
import time

import numpy as np
import pytest

from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from trt_code.runners import create
from trt_code.stress import fuzz
from trt_code.stress.under_load import Pool, faults, latency, load
from trt_code.tests.runners.fake_runner import FakeRunner

THREADS = 8


@pytest.fixture(scope="module")
def rows():
    chance = np.random.default_rng(1)
    return [[0, *chance.integers(4, 40, chance.integers(1, 20)).tolist(), 2] for _ in range(60)]


@pytest.mark.parametrize("name", ["torch", "ort"])
def test_eight_threads_on_one_runner_get_what_each_sentence_gives_alone(
    name, rows, tiny_files, tiny_build
):
    with create(name, tiny_files, "fp32", "cpu", threads=1, build_dir=tiny_build) as runner:
        pool = Pool.of(rows, runner)
        books = load(runner, pool, 2000, THREADS, seconds=60)
        assert latency(runner, pool, 16, THREADS)["passes"] == 16
    assert books.sentences >= 2000
    assert books.other_rows == 0
    assert books.score_off <= 1
    assert len(books.per_thread) == THREADS


def test_eight_threads_on_one_search_get_what_each_sentence_gives_alone(rows, tmp_path):
    loaded = load_checkpoint(fuzz.CHECKPOINTS[1])
    masked = dataclasses.replace(loaded.config, padding_policy="masked")
    files = ModelFolder(
        "greedy", tmp_path / "checkpoint.pt", architecture="transformer_multibranch_v2"
    )
    save_checkpoint(files.checkpoint, loaded.model, masked)
    with create("torch", files, "fp32", "cpu", threads=1) as runner:
        books = load(runner, Pool.of(rows, runner), 600, THREADS, seconds=60)
    assert books.sentences >= 600
    assert books.other_rows == 0


class Careless(FakeRunner):
    """Returns results from one buffer that all threads share."""

    def run(self, src_tokens):
        self.shared = super().run(src_tokens)
        time.sleep(1e-3)
        return self.shared


class Swapping(FakeRunner):
    """Returns a batch's rows in another order."""

    def run(self, src_tokens):
        output = super().run(src_tokens)
        return type(output)(output.tokens[::-1], output.scores)


def test_rows_in_another_order_are_detected(rows):
    runner = Swapping()
    books = load(runner, Pool.of(rows, runner), 200, 1, seconds=60)
    assert books.other_rows > 100
    assert books.other_sentences


def test_threads_that_disturb_each_other_are_detected(rows):
    runner = Careless()
    pool = Pool.of(rows, runner)
    assert load(runner, pool, 300, 1, seconds=60).other_rows == 0
    with pytest.raises((AssertionError, ValueError)):  # another batch's shape, or its tokens
        assert load(runner, pool, 300, THREADS, seconds=60).other_rows == 0


def test_faults_are_reported():
    good = {
        "other_rows": 0,
        "precision": "fp32",
        "device": "cpu",
        "score_off_tolerances": 0.5,
        "memory": [{"sentences": i, "resident": 100 << 20} for i in range(10)],
        "latency": [{"threads": 1, "p50_processor_ms": 1.0, "p99_processor_ms": 2.9}],
    }
    assert faults(good) == []
    leak = [{"sentences": i, "resident": (100 + i) << 20} for i in range(10)]
    slow = [{"threads": 8, "p50_processor_ms": 1.0, "p99_processor_ms": 3.1}]
    for change, words in (
        ({"other_rows": 3}, "3 rows have other tokens than alone"),
        ({"score_off_tolerances": 1.5}, "a score is off by 1.5 tolerances"),
        ({"memory": leak}, "resident memory grew from 101 to 109 MiB"),
        ({"latency": slow}, "p99 is more than 3.0 times p50 with 8 threads"),
    ):
        assert faults(good | change) == [words]
