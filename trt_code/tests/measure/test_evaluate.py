"""Scores compared with counts by hand, and the command line."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import sacrebleu

from train_model.cli import UserError
from train_model.data.tokenizer import Tokenizer
from trt_code import bench, evaluate
from trt_code.measure import quality
from trt_code.runners import RUNNERS
from trt_code.tests.runners import fake_runner
from trt_code.tests.tiny import SENTENCES
from trt_code.text.codec import Translation


def test_score_counts_texts_and_lengths(tiny_files):
    tokenizer = Tokenizer.from_files(tiny_files)
    references = ["one two", "three four", "five", "six seven eight nine"]
    translations = [
        Translation("one two", 4),  # exact
        Translation("three five", 4),  # the right length, another word
        Translation("five six", 4),  # too long
        Translation("six seven eight nine", 6),  # exact
    ]
    scores = evaluate.score(translations, references, tokenizer)
    assert scores["exact_match"] == 50
    assert scores["length_accuracy"] == 75
    assert 0 < scores["bleu"] < 100
    assert "tok:13a" in scores["bleu_signature"]
    perfect = [Translation(r, len(r.split()) + 2) for r in references]
    scores = evaluate.score(perfect, references, tokenizer)
    assert (scores["exact_match"], scores["length_accuracy"], scores["chrf"]) == (100, 100, 100)
    assert scores["bleu"] == pytest.approx(100)


def test_details_count_failures_lengths_and_kinds(tiny_files, tmp_path):
    references = ["one two three four five", "three four five", "six", "seven eight nine ten"] * 10
    texts = [
        ("one two three four five", 7),
        ("three three five", 5),
        ("", 2),
        ("seven eight", 4),
    ] * 10
    translations = [Translation(*text) for text in texts]
    sources = ["one two", "three four five", "six", "seven eight nine ten and one"] * 10
    kinds = ["man", "man", "ui", "ui"] * 10
    tokenizer = Tokenizer.from_files(tiny_files)
    found = quality.details(sources, references, translations, tokenizer, kinds)
    assert (found["repeated"], found["empty"]) == (25, 25)
    # as many tokens as the reference: 2 of 4; one fewer: 1; two fewer: 1
    assert (found["within_1"], found["within_2"], found["length_error"]) == (75, 100, -0.75)
    assert {name: group["sentences"] for name, group in found["lengths"].items()} == {
        "1 to 5": 30,
        "6 to 10": 10,
        "11 to 20": 0,
        "21 to 40": 0,
        "41 and more": 0,
    }
    assert found["lengths"]["6 to 10"]["bleu"] is None  # too few for a score
    group = found["kinds"]["man"]
    man = [i for i in range(40) if kinds[i] == "man"]
    own = sacrebleu.corpus_bleu([texts[i][0] for i in man], [[references[i] for i in man]])
    assert group == {"sentences": 20, "bleu": round(own.score, 3)}
    mean, half = found["bleu_interval"]
    whole = sacrebleu.corpus_bleu([text for text, _ in texts], [references]).score
    assert abs(mean - whole) < half < 20

    source = tmp_path / "test.en"
    source.write_text("one\ntwo\n")
    assert quality.read_kinds(source) == []
    (tmp_path / "test.tsv").write_text("man\tman/one\nui\tgit/po\n")
    assert quality.read_kinds(source) == ["man", "ui"]
    source.write_text("one\n")
    with pytest.raises(UserError, match=r"test.tsv has 2 lines, and .*test.en 1"):
        quality.read_kinds(source)


def test_every_runner_has_a_row_or_a_reason(zoo, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(RUNNERS, "fake", fake_runner.SPECS)
    evaluate.main(
        [
            *("--model", "tiny", "--runner", "fake,ort", "--precision", "fp32,int8"),
            *("--device", "cpu", "--output", str(tmp_path), "--build-dir", str(tmp_path)),
        ]
    )
    results = json.loads((tmp_path / "tiny.test.json").read_text())
    assert results["sentences"] == len(SENTENCES)
    (row,) = results["rows"]  # the source and the target of the tiny model are the same text
    assert (row["name"], row["exact_match"], row["length_accuracy"]) == (
        "fake fp32 (cpu)",
        100,
        100,
    )
    texts = (tmp_path / "tiny.test.fake.fp32.txt").read_text()
    assert texts == "".join(f"{sentence}\n" for sentence in SENTENCES)
    page = (tmp_path / "tiny.test.md").read_text()
    assert "| fake fp32 (cpu) | 100.00 |" in page
    assert "bs:1000" in page
    printed = capsys.readouterr().out
    assert "fake int8 (cpu)             not run: the fake is not here today" in printed
    assert "ort fp32 (cpu)              not run:" in printed


def test_options_of_a_search_warn_where_there_is_none(zoo, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(RUNNERS, "fake", fake_runner.SPECS)
    arguments = ["--model", "tiny", "--runner", "fake", "--precision", "fp32", "--device", "cpu"]
    arguments += ["--output", str(tmp_path), "--beam", "5", "--iter-decode-max-iter", "10"]
    evaluate.main(arguments)
    errors = capsys.readouterr().err
    assert "warning: --beam 5 is ignored" in errors
    assert "warning: --iter-decode-max-iter 10 is ignored" in errors
    (row,) = json.loads((tmp_path / "tiny.test.json").read_text())["rows"]
    assert row["exact_match"] == 100  # without an effect


def test_limit(zoo, monkeypatch, tmp_path):
    monkeypatch.setitem(RUNNERS, "fake", fake_runner.SPECS)
    arguments = ["--model", "tiny", "--runner", "fake", "--output", str(tmp_path), "--limit"]
    evaluate.main([*arguments, "2"])
    assert json.loads((tmp_path / "tiny.test.json").read_text())["sentences"] == 2
    with pytest.raises(UserError, match="--limit"):
        evaluate.main([*arguments, "0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mute"], "no text"),
        (["--model", "tiny", "--split", "dev"], "no split 'dev'"),
        (["--model", "tiny", "--split", "../test"], "not a name of a split"),
        (["--model", "tiny", "--precision", "int8", "--runner", "ort"], "none of the runners"),
    ],
)
def test_bad_input_is_one_line(arguments, message, zoo, tmp_path):
    with pytest.raises(UserError, match=message):
        evaluate.main([*arguments, "--output", str(tmp_path), "--device", "cpu"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", " \n\t\n"])
def test_a_split_without_a_sentence_is_refused(text, tiny_files, tmp_path):
    files = dataclasses.replace(
        tiny_files, test_src=tmp_path / "test.en", test_tgt=tmp_path / "test.de"
    )
    for path in (files.test_src, files.test_tgt):
        path.write_text(text)
    with pytest.raises(UserError, match=r"test\.en has no sentence in it"):
        evaluate.read_split(files, "test")
    config = SimpleNamespace(max_source_positions=254, src_vocab=1000)
    with pytest.raises(UserError, match=r"test\.en has no sentence in it"):
        bench.make_inputs(files, [(1, 8)], config)


def test_sides_of_different_length_are_refused(tiny_files, tmp_path):
    files = dataclasses.replace(tiny_files, test_tgt=tmp_path / "test.de")
    files.test_tgt.write_text("eins\n")
    with pytest.raises(UserError, match="5 sources and 1 references"):
        evaluate.read_split(files, "test")
