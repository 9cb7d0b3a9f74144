"""The record of builds: two small graphs through the real TensorRT, each in processes of its own."""

import json

import pytest

from train_model.cli import UserError
from trt_code.measure import engine_builds
from trt_code.tests.engine import real_tensorrt
from trt_code.tests.engine.graphs import write_graph


def test_every_graph_has_a_row_and_other_models_stay(tmp_path, capsys, monkeypatch):
    version = real_tensorrt.tensorrt().__version__
    folder, output = tmp_path / "build" / "demo", tmp_path / "out"
    folder.mkdir(parents=True)
    output.mkdir()
    earlier = {"machine": {"date": "before"}, "rows": []}
    (output / "builds.json").write_text(json.dumps({"other": earlier, "demo": earlier}))
    write_graph(folder / "model.onnx")  # as exported
    write_graph(folder / "model.fp16.plain.onnx", metadata={"precision": "fp16", "plugins": "none"})
    write_graph(folder / "model.fp16.onnx", metadata={"precision": "fp16"}, plugin="LiteUnknown")

    given = ["--build-dir", str(tmp_path / "build"), "--output", str(output)]
    assert engine_builds.main(given) == 1  # the parser refuses one
    models = json.loads((output / "builds.json").read_text())
    assert models["other"] == earlier
    refused, built = models["demo"]["rows"]
    assert (refused["graph"], refused["plugins"]) == ("model.fp16.onnx", "lite")
    assert "LiteUnknown" in refused["result"]
    assert refused["plan_mib"] is None
    assert (built["graph"], built["plugins"]) == ("model.fp16.plain.onnx", "none")
    assert built["result"] in (f"built by rtx {version}", f"built by full {version}")
    assert built["cpu_seconds"] > 0
    assert built["peak_mib"] > 50
    assert (built["compared"], built["different"], built["differences"]) == (6, 0, [])
    page = (output / "builds.md").read_text()
    assert "## other" in page
    assert "| model.fp16.plain.onnx | none |" in page
    assert "2 graphs of demo, 1 not as they should be" in capsys.readouterr().out

    # one graph again; the other's row stays
    write_graph(folder / "model.fp16.onnx", metadata={"precision": "fp16", "plugins": "none"})
    assert engine_builds.main([*given, "--only", "*.fp16.onnx"]) == 0
    record = json.loads((output / "builds.json").read_text())["demo"]
    again, same = record["rows"]
    assert record["machine"].pop("again, *.fp16.onnx").count(", commit ") == 1
    assert record["machine"] == models["demo"]["machine"]
    assert again["result"] == same["result"]
    assert same == built
    with pytest.raises(UserError, match="no patched graph of demo is named other"):
        engine_builds.main([*given, "--only", "other"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "JSON"), ("[1]", "a record"), ('{"demo": {}}', "a record"), ("[" * 10**5, "JSON")],
)
def test_a_file_that_is_not_a_record_is_kept(tmp_path, content, reason):
    path = tmp_path / "builds.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"builds\.json is not {reason}"):
        engine_builds.read_record(path)
    assert path.read_text() == content
    assert engine_builds.read_record(tmp_path / "none.json") == {}


def test_without_graphs_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no patched graphs of demo in .*; make them with"):
        engine_builds.main(["--build-dir", str(tmp_path)])
