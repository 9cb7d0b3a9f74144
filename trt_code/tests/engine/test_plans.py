"""The list of a model's engines, with plans of the mocked TensorRT."""

from pathlib import Path

import pytest

from train_model.cli import UserError
from trt_code.engine import plans
from trt_code.tests.engine import mock_tensorrt
from trt_code.tests.engine.graphs import write_graph
from trt_code.tests.engine.plans import PLAN, build


def test_the_list_says_what_each_plan_needs(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    mock_tensorrt.install(monkeypatch, version="1.7.1.116")
    with pytest.raises(UserError, match="no engines in build/demo; build one: make engine-fp16"):
        plans.main([])
    library = Path("build/plugins/liblite_plugins_trt11.so")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF")
    build(plugin="LiteTopK")
    for end in ("", ".json"):
        Path(f"{PLAN}{end}").rename(f"build/demo/model.bf16.plan{end}")
    build()
    Path("build/demo/odd.plan").touch()
    capsys.readouterr()

    plans.main([])
    bf16, fp16, odd = capsys.readouterr().out.splitlines()
    by = "built by TensorRT RTX 1.7.1 for 8.0 8.6 8.9 12.x in 0.0 s, 0.0 MiB"
    # the second build wrote another graph
    assert bf16.startswith(f"model.bf16.plan  needs liblite_plugins_trt11.so; {by}; is older than")
    assert fp16 == f"model.fp16.plan  needs no plugins; {by}"
    assert odd.startswith("odd.plan         build/demo/odd.plan has no odd.plan.json")

    write_graph(PLAN.with_suffix(".onnx"), functions=["LiteTopK"])
    plans.main([])
    assert "fp16.plan  needs no plugins" in (said := capsys.readouterr().out)
    assert said.count("build it again: python -m trt_code.build_engine") == 3
