"""Quality and speed of several systems, measured in parts."""

import dataclasses
import json

import pytest

from train_model.cli import UserError
from trt_code.measure import trade_off
from trt_code.tests.measure.pair import tiny_pair
from trt_code.tests.tiny import SENTENCES

ENTRIES = ["--entry", "tiny:torch:fp32", "--entry", "tiny-ar:torch:fp32:2:0.5"]


@pytest.fixture
def arguments(tiny_files, tmp_path, monkeypatch):
    known = tiny_pair(tiny_files, tmp_path)
    other = tmp_path / "test.de"
    other.write_text("one\n" * len(SENTENCES))
    known["elsewhere"] = dataclasses.replace(tiny_files, test_tgt=other)
    monkeypatch.setattr(trade_off, "find_model", lambda name, build_dir: known[name])
    return ["--device", "cpu", "--threads", "1", "--output", str(tmp_path / "out")]


def test_parts_make_the_same_table_as_one_run(arguments, tmp_path, capsys):
    trade_off.main([*arguments, *ENTRIES, "--part", "2/2"])
    assert "still to be measured: part-1-of-2.json" in capsys.readouterr().out
    assert not (tmp_path / "out" / "results.json").exists()
    trade_off.main([*arguments, *ENTRIES, "--part", "1/2"])
    parted = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["name"] for row in parted] == [
        "tiny, torch fp32",
        "tiny-ar, torch fp32, beam 2, lenpen 0.5",
    ]
    arguments[-1] = str(tmp_path / "whole")
    trade_off.main([*arguments, *ENTRIES])
    whole = json.loads((tmp_path / "whole" / "results.json").read_text())["rows"]
    for one, other in zip(parted, whole, strict=True):
        assert one["sentences"] == other["sentences"] == len(SENTENCES)
        assert (one["bleu"], one["chrf"]) == (other["bleu"], other["chrf"])
        assert one["sentences_per_s"] == pytest.approx(one["sentences"] / one["seconds"], rel=0.1)
        assert sum(one["seconds_of_parts"]) == pytest.approx(one["seconds"], abs=0.01)
    page = (tmp_path / "whole" / "results.md").read_text()
    assert "| tiny-ar, torch fp32, beam 2, lenpen 0.5 | 0.00 |" in page
    assert (tmp_path / "whole" / "results.png").stat().st_size > 10_000


def test_a_repeated_text_is_scored_once_and_its_copies_are_compared(
    arguments, tmp_path, monkeypatch
):
    trade_off.main([*arguments, *ENTRIES])
    once = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    arguments[-1] = str(tmp_path / "long")
    count = 3 * len(SENTENCES) + 1
    plain, calls = trade_off.LineTranslator.translate, []

    def worse(self, lines):
        """Change one line of the last part."""
        found = plain(self, lines)
        calls.append(len(lines))
        if len(calls) == 2 + 2 * trade_off.PARTS:
            found[0] = found[0]._replace(text="another one")
        return found

    monkeypatch.setattr(trade_off.LineTranslator, "translate", worse)
    trade_off.main([*arguments, *ENTRIES, "--lines", str(count)])
    rows = json.loads((tmp_path / "long" / "results.json").read_text())["rows"]
    for row, short in zip(rows, once, strict=True):
        assert row["sentences"] == count
        assert (row["bleu"], row["chrf"]) == (short["bleu"], short["chrf"])
        assert len(row["resident_mib_of_parts"]) == trade_off.PARTS
    assert [row["unequal_copies"] for row in rows] == [0, 1]
    with pytest.raises(UserError, match="--lines 3 is less than the text has; use --limit 3"):
        trade_off.main([*arguments, *ENTRIES, "--lines", "3"])


def test_what_does_not_belong_together_is_refused(arguments):
    with pytest.raises(UserError, match="different test texts"):
        trade_off.main([*arguments, *ENTRIES, "--entry", "elsewhere:torch:fp32"])
    with pytest.raises(UserError, match="tiny:trt:fp16: "):
        trade_off.main([*arguments, *ENTRIES, "--entry", "tiny:trt:fp16"])
    trade_off.main([*arguments, *ENTRIES, "--part", "1/2"])
    with pytest.raises(UserError, match="are of different runs; remove them"):
        trade_off.main([*arguments, *ENTRIES[:2], "--part", "2/2"])


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("seconds", 0, "seconds is 0"),
        ("cpu_s", "x", "not supported"),
        ("resident_mib", 1e300, "resident_mib is 1e"),
        ("translations", [[1, 2]], "a translation of int"),
        ("translations", [], "is not a folder with all parts"),
        ("translations", None, "is not a part of this measurement"),
    ],
)
def test_a_damaged_part_is_one_line(entry, value, message, arguments, tmp_path):
    trade_off.main([*arguments, *ENTRIES[:2], "--part", "1/2"])
    path = tmp_path / "out" / "part-1-of-2.json"
    content = json.loads(path.read_text())
    for found in content["entries"].values():
        found[entry] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        trade_off.main([*arguments, *ENTRIES[:2], "--part", "2/2"])
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b"])
def test_an_invalid_part_is_refused(text):
    with pytest.raises(UserError, match="not a part"):
        trade_off.parse_part(text)


@pytest.mark.parametrize(
    ("penalty", "labels"), [("1.4", ["fp16", "fp16, beam 5"]), ("1.0", None)], ids=["one", "two"]
)
def test_labels_leave_out_a_length_penalty_that_all_have(penalty, labels, monkeypatch, tmp_path):
    names = [f"a, native fp16{rest}, lenpen {penalty}" for rest in ("", ", beam 5")]
    names[0] = names[0].replace(penalty, "1.4")
    drawn = []
    monkeypatch.setattr(
        trade_off.plots, "points", lambda path, title, series, *axes: drawn.append(series)
    )
    rows = [{"name": name, "sentences_per_s": 1.0, "bleu": 2.0} for name in names]
    trade_off.plot({"machine": {"cpu": "one"}, "rows": rows}, tmp_path / "plot.png")
    assert list(drawn[0]["a, native"]) == (labels or [name.split(" ", 2)[2] for name in names])
