"""The comparison runs both kinds of networks over the same sentences and says what it cannot run."""

import json

import pytest

from train_model.cli import UserError
from trt_code.measure.compare import Entry, main
from trt_code.tests.measure.pair import tiny_pair


@pytest.fixture
def zoo(tiny_files, tmp_path, monkeypatch):
    known = tiny_pair(tiny_files, tmp_path)
    monkeypatch.setattr("trt_code.measure.compare.find_model", lambda name, build_dir: known[name])


def test_every_entry_has_quality_and_times(zoo, tmp_path, capsys):
    output = tmp_path / "compare"
    arguments = ["--device", "cpu", "--threads", "1", "--batch", "1,3", "--repeats", "2"]
    arguments += ["--limit", "4", "--build-dir", str(tmp_path), "--output", str(output)]
    arguments += ["--lenpen", "0.5"]
    for entry in ("tiny:torch:fp32", "tiny-ar:torch:fp32:2", "tiny-ar:ort:fp32:1:0"):
        arguments += ["--entry", entry]
    main(arguments)
    results = json.loads((output / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == [
        "tiny, torch fp32",
        "tiny-ar, torch fp32, beam 2, lenpen 0.5",
    ]
    for row in results["rows"]:
        assert row["sentences"] == 4
        assert [time["batch"] for time in row["times"]] == [1, 3]
        for time in row["times"]:
            assert 0 < time["ms"] <= time["ms_p95"]
            assert time["sentences_per_s"] > 0
    assert "has not been built" in results["not_run"][0]["reason"]
    page = (output / "results.md").read_text()
    assert "| tiny-ar, torch fp32, beam 2, lenpen 0.5 |" in page
    assert "tiny-ar, ort fp32, beam 1, lenpen 0: " in page
    assert (output / "results.png").stat().st_size > 10_000
    assert "not run" in capsys.readouterr().out


def test_nothing_that_runs_is_an_error_and_writes_nothing(zoo, tmp_path):
    arguments = [
        "--device",
        "cpu",
        "--entry",
        "tiny-ar:trt:fp16:1",
        "--output",
        str(tmp_path / "o"),
    ]
    with pytest.raises(UserError, match="none of the entries"):
        main(arguments)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "demo",
        "demo:ort",
        "demo:ort:fp32:x",
        "demo::fp32",
        "a:b:c:1:x",
        "a:b:c:0",
        "a:b:c:1_0",
        "a:b:c:9999",
        "a:b:c:2:nan",
        "a:b:c:1:2:3",
    ],
)
def test_an_invalid_entry_is_refused(text):
    with pytest.raises(UserError, match="is not model:runner:precision"):
        Entry.parse(text)


@pytest.mark.parametrize("arguments", [["--batch", "1,x"], ["--batch", "0"], ["--repeats", "0"]])
def test_sizes_that_make_no_sense_are_refused(arguments):
    with pytest.raises(UserError, match=arguments[0]):
        main(arguments)
