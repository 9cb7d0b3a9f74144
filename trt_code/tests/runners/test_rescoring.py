"""Candidates of a one-pass network, and the autoregressive network that chooses among them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from onnx_export import export
from train_model.cli import UserError
from train_model.data.dictionary import BOS, EOS, PAD, Dictionary
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.tests.networks import of_architecture
from train_model.tests.step_by_step import incremental_logprobs
from trt_code import evaluate, translate
from trt_code.runners import Unavailable, create
from trt_code.runners.rescoring import Rescoring
from trt_code.tests.tiny import SENTENCES
from trt_code.text import batching
from trt_code.text.api import Translator

COUNT = 4


def make_judge(folder, architecture="transformer_multibranch_v2", **changes):
    """Add an autoregressive network of the same dictionaries next to the model ``tiny``."""
    words = len(Dictionary.load(folder / "dict.txt"))
    network = of_architecture(architecture, words, words, **changes)
    save_checkpoint(folder / "checkpoint.pt", network, network.config)
    description = (folder / "model.yaml").read_text()
    changed = description.replace("conv_crf_transformer", architecture)
    (folder / "model.yaml").write_text(changed.replace("judge: ../judge\n", ""))


@pytest.fixture(scope="module")
def models(tiny_folder, tmp_path_factory):
    """The paths of ``tiny``, whose model.yaml names its judge, and of the judge."""
    folder = tmp_path_factory.mktemp("pair")
    paths = [shutil.copytree(tiny_folder, folder / name) for name in ("tiny", "judge")]
    with (paths[0] / "model.yaml").open("a") as description:
        description.write("judge: ../judge\n")
    make_judge(paths[1])
    return tuple(map(str, paths))


@pytest.fixture(scope="module")
def build_dir(models, tmp_path_factory):
    """A build folder with the halves of ``tiny`` in ONNX."""
    folder = tmp_path_factory.mktemp("build")
    files = find_model(models[0])
    output = folder / files.name / "model.onnx"
    export.main(["--checkpoint", str(files.checkpoint), "--output", str(output), "--split"])
    return folder


def brute_force(models, row):
    """Translate one source with each length, and score each translation token by token.

    Returns:
        (mean log-probability, tokens without bos) of every length, the best first.
    """
    files, judge = map(find_model, models)
    model = load_checkpoint(files.checkpoint).model.eval()
    network = load_checkpoint(judge.checkpoint).model.eval()
    source = torch.tensor([row])
    found = []
    with torch.inference_mode():
        encoded = model.encode(source)
        predicted = int(model.predict_length(encoded))
        lengths = sorted(range(3, 2 * len(row) + 1), key=lambda n: (abs(n - predicted), n))[:COUNT]
        for length in lengths:
            canvas = model.initial_canvas(torch.tensor([length]), length)
            tokens, _ = model.choose(model.decode(canvas, encoded), canvas)
            target = tokens[0, 1:].tolist()
            past = torch.tensor([[EOS, *target[:-1]]])
            logprobs = incremental_logprobs(network, source[:, 1:], past)[0]
            scores = [float(logprobs[at, token]) for at, token in enumerate(target)]
            found.append((sum(scores) / len(scores), target))
    return sorted(found, key=lambda pair: -pair[0])


@pytest.fixture(scope="module")
def expected(models):
    tokenizer = Tokenizer.from_files(find_model(models[0]))
    rows = [tokenizer.encode(sentence) for sentence in SENTENCES]
    return rows, [brute_force(models, row) for row in rows]


@pytest.mark.parametrize("name", ["torch", "ort-split"])
def test_the_judges_best_candidate_is_that_of_a_brute_force_search(
    name, models, build_dir, expected
):
    rows, searched = expected
    files = find_model(models[0])
    rescoring = Rescoring.of(files, COUNT, None, "cpu", threads=1)
    assert rescoring.judge.name == find_model(models[1]).name
    with rescoring.wrap(create(name, files, "fp32", "cpu", build_dir=build_dir)) as runner:
        output = runner.run(batching.pad(rows))
        several = runner.candidates(batching.pad(rows), COUNT)
        with pytest.raises(UserError, match="5 translations per sentence need --candidates 5"):
            runner.candidates(batching.pad(rows), COUNT + 1)
    for at, found in enumerate(searched):
        assert output.tokens[at][output.tokens[at] != PAD].tolist() == [BOS, *found[0][1]]
        length = 1 + len(found[0][1])
        assert output.scores[at, 1:length].mean() == pytest.approx(found[0][0], abs=1e-5)
        assert not output.scores[at, length:].any()
        assert several.counts[at] == len(found) == COUNT
        scores = [score for score, _ in found]
        np.testing.assert_allclose(several.scores[at], scores, atol=1e-5)
        own = [
            several.tokens[at, rank, : several.lengths[at, rank]].tolist() for rank in range(COUNT)
        ]
        assert sorted(own) == sorted(target for _, target in found)
    # otherwise the judge would have no choice
    with create("torch", files, "fp32", "cpu") as plain:
        first = plain.run(batching.pad(rows)).tokens
    assert any(
        first[at][first[at] != PAD].tolist()[1:] != found[0][1] for at, found in enumerate(searched)
    )


def test_every_program_takes_candidates(models, build_dir, expected, tmp_path, capsys):
    tokenizer = Tokenizer.from_files(find_model(models[0]))
    texts = [tokenizer.decode(np.array(found[0][1])) for found in expected[1]]
    options = ["--model", models[0], "--build-dir", str(build_dir), "--device", "cpu"]
    options += ["--candidates", str(COUNT)]
    translate.main([*options, *SENTENCES])
    assert capsys.readouterr().out.splitlines() == texts
    translate.main(
        [
            *options,
            "--runner",
            "torch",
            "--n-best",
            "2",
            "--format",
            "json",
            "two hundred and three",
        ]
    )
    hypotheses = json.loads(capsys.readouterr().out)["hypotheses"]
    assert [one["score"] for one in hypotheses] == pytest.approx(
        [score for score, _ in expected[1][1][:2]], abs=1e-5
    )
    with Translator(
        models[0], device="cpu", build_dir=build_dir, candidates=COUNT, judge=models[1]
    ) as translator:
        assert translator.translate(SENTENCES) == texts
        batch = translator.translate_batch(SENTENCES, n_best=2)
        assert batch.scores[0] == pytest.approx(
            [score for score, _ in expected[1][0][:2]], abs=1e-5
        )


def test_eval_names_the_judge(models, build_dir, tmp_path, monkeypatch, capsys):
    files = dataclasses.replace(
        find_model(models[0]),
        **{f"test_{side}": tmp_path / f"test.{side}" for side in ("src", "tgt")},
    )
    for side in ("src", "tgt"):
        (tmp_path / f"test.{side}").write_text("one\ntwo\n")
    monkeypatch.setattr(evaluate, "find_model", lambda *_: files)
    options = ["--build-dir", str(build_dir), "--device", "cpu", "--output", str(tmp_path)]
    options += ["--runner", "ort,ort-split", "--precision", "fp32", "--candidates", "3"]
    evaluate.main(options)
    assert "3 candidates, judge judge-" in capsys.readouterr().out
    results = json.loads((tmp_path / f"{files.name}.test.json").read_text())
    assert results["candidates"] == 3
    assert [row["name"] for row in results["rows"]] == ["ort-split fp32 (cpu)"]


def test_options_that_cannot_be_rescored_are_refused_in_one_line(models, tmp_path):
    files, judge = map(find_model, models)

    def refused(files, *options):
        with pytest.raises(UserError) as error:
            Rescoring.of(files, *options, "cpu")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert Rescoring.of(files, None, None, "cpu") is None
    assert "--judge needs --candidates" in refused(files, None, models[1])
    assert "is for one-pass networks, and" in refused(judge, 5, None)
    iterative = dataclasses.replace(files, architecture="cmlm_transformer")
    assert "is an iterative one" in refused(iterative, 5, None)
    assert "names none; give an autoregressive" in refused(
        dataclasses.replace(files, judge=""), 5, None
    )
    assert "is a one-pass network; give an autoregressive" in refused(files, 5, models[0])
    assert "no such folder" in refused(files, 5, str(tmp_path / "missing"))
    other = shutil.copytree(models[1], tmp_path / "other")
    dictionary = (other / "dict.txt").read_text().splitlines()
    (other / "dict.txt").write_text(
        "\n".join([dictionary[1], dictionary[0], *dictionary[2:]]) + "\n"
    )
    assert "has another source dictionary" in refused(files, 5, str(other))
    with pytest.raises(
        UserError, match="3 translations per sentence need --candidates 3 or more, not 2"
    ):
        Translator(models[0], device="cpu", runner="torch", candidates=2).translations(
            ["one"], n_best=3
        )
    runner = create("torch", files, "fp32", "cpu")
    runner.n_best = False
    with pytest.raises(Unavailable, match="torch gives one translation per sentence"):
        Rescoring.of(files, 2, None, "cpu").wrap(runner)


def test_a_translation_of_more_tokens_than_the_judge_has_positions(models, tmp_path):
    short = shutil.copytree(models[1], tmp_path / "short")
    make_judge(short, max_target_positions=4)
    files = find_model(models[0])
    rescoring = Rescoring.of(files, 2, str(short), "cpu")
    with rescoring.wrap(create("torch", files, "fp32", "cpu")) as runner:
        tokens = np.array([[BOS, 5, 6, 7, 8, EOS]])
        with pytest.raises(UserError, match="more than the 4 positions of the judge"):
            runner.run(tokens)
