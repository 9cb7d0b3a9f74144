"""``build_engine`` with a mock of TensorRT: only the control flow. No engine is built."""

import json
import os
import resource
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from train_model.cli import UserError
from trt_code import build_engine
from trt_code.build_engine import _parser, main
from trt_code.engine import capabilities, tensorrt_api
from trt_code.engine.gpu import Gpu
from trt_code.tests.engine import mock_tensorrt
from trt_code.tests.engine.graphs import write_graph
from trt_code.tests.engine.mock_tensorrt import ParserError


@pytest.fixture
def trt(trt, empty_folder):
    write_graph(empty_folder / "model.onnx")
    return trt


def build(*flags):
    main(["--onnx", "model.onnx", "--output", "out/model.plan", *flags])


def sidecar():
    return json.loads(Path("out/model.plan.json").read_text())


def test_writes_the_plan_and_what_it_was_built_from(trt):
    build()
    written = sidecar()
    assert Path("out/model.plan").is_file()
    assert written["tensorrt"] == "11.4.0.106"
    assert written["gpu"] == {"name": "Mock GPU", "compute_capability": "9.0"}
    assert written["graph"]["path"] == "../model.onnx"
    assert written["profiles"] == [{"min": [1, 1], "opt": [16, 32], "max": [64, 127]}]
    assert written["command"] == (
        "python -m trt_code.build_engine --onnx model.onnx --output out/model.plan"
    )
    assert sorted(path.name for path in Path("out").iterdir()) == ["model.plan", "model.plan.json"]


def test_the_network_is_strongly_typed_by_name_not_by_number(trt):
    build()
    assert trt.creation_flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED


@pytest.mark.parametrize(
    ("precision", "flags", "tf32"),
    [
        ("fp32", [], False),
        ("tf32", [], True),
        ("fp16", [], True),
        ("fp32", ["--tf32"], True),
        ("tf32", ["--fp32"], False),
    ],
)
def test_tf32_is_as_the_graph_says_or_as_asked(trt, precision, flags, tf32):
    write_graph(Path("model.onnx"), metadata={"precision": precision})
    build(*flags)
    assert (trt.BuilderFlag.TF32 in trt.built_config._flags) is tf32
    assert sidecar()["tf32"] is tf32


def test_flags_reach_the_builder(trt):
    build("--workspace", "512", "--version-compatible", "--hardware-compatible")
    config = trt.built_config
    assert config._pools == {"WORKSPACE": 512 << 20}
    assert trt.BuilderFlag.VERSION_COMPATIBLE in config._flags
    assert config.hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert sidecar()["version_compatible"] is True
    assert sidecar()["hardware_compatible"] == "ampere-plus"


def test_several_profiles_keep_their_order(trt):
    one = ["--min", "1x1", "--opt", "1x32", "--max", "1x127"]
    many = ["--min", "2x1", "--opt", "16x32", "--max", "64x127"]
    build(*one, *many)
    shapes = [profile._shapes["src_tokens"] for profile in trt.built_config._profiles]
    assert shapes == [[[1, 1], [1, 32], [1, 127]], [[2, 1], [16, 32], [64, 127]]]


def write_half(path: Path, extra: str = "room"):
    """Write a graph with the axes of a search's step, without a network."""
    axes = {
        "tokens": ["batch", "beam"],
        "position": [],
        "source": ["batch", 4, "src_len", 8],
        "state": ["rows", 4, extra, 8],
        "window": ["rows", 2, 16],
    }
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in axes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2, 16])
    nodes = [helper.make_node("Identity", ["window"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "step", inputs, [output]))
    positions = {"max_source_positions": "127", "max_target_positions": "100"}
    helper.set_model_props(model, positions)
    onnx.save(model, path)


def test_a_half_has_its_axes_by_name(trt):
    write_half(Path("model.onnx"))
    build("--min", "1x1", "--opt", "8x20", "--max", "16x50", "--axis", "beam=1:2:5")
    (profile,) = trt.built_config._profiles
    assert profile._shapes == {
        "tokens": [[1, 1], [8, 2], [16, 5]],
        "source": [[1, 4, 1, 8], [8, 4, 20, 8], [16, 4, 50, 8]],
        "state": [[1, 4, 1, 8], [16, 4, 32, 8], [80, 4, 100, 8]],
        "window": [[1, 2, 16], [16, 2, 16], [80, 2, 16]],
    }
    assert sidecar()["ranges"] == {"beam": [1, 2, 5], "room": [1, 32, 100]}


def test_a_missing_axis_or_one_without_a_size_is_reported(trt):
    with pytest.raises(UserError, match="has no axis beam"):
        build("--axis", "beam=1:1:4")
    write_half(Path("model.onnx"), extra="depth")
    with pytest.raises(UserError, match="--axis depth=min:opt:max"):
        build()


@pytest.mark.parametrize("text", ["beam", "beam=1:2", "=1:2:3", "beam=0:1:2", "beam=3:2:4"])
def test_an_invalid_range_is_refused(trt, text):
    assert f"--axis: '{text}' " in refusal("--axis", text)


def test_layer_report_asks_for_details_and_is_written(trt):
    build("--layer-report", "layers.json")
    assert json.loads(Path("layers.json").read_text()) == {"Layers": ["DETAILED"]}


def test_progress_is_reported_once_per_phase(trt, capsys):
    build()
    assert capsys.readouterr().err.startswith("Building Engine: ")


def test_timing_cache_is_written_then_read(trt):
    for expected in (b"t", b"tt"):
        build("--timing-cache", "timing.cache")
        assert Path("timing.cache").read_bytes() == expected


def test_foreign_timing_cache_is_replaced(trt, capsys):
    Path("timing.cache").write_bytes(b"foreign")
    build("--timing-cache", "timing.cache")
    assert Path("timing.cache").read_bytes() == b"t"
    assert "starting timing.cache afresh" in capsys.readouterr().err


def test_plan_is_kept_when_the_timing_cache_cannot_be(trt, capsys):
    Path("file").touch()
    build("--timing-cache", "file/timing.cache")
    assert Path("out/model.plan").is_file()
    assert "warning: cannot write file/timing.cache" in capsys.readouterr().err


def test_ctrl_c_is_pythons_again_after_a_failed_build(trt):
    trt.refuse_build = True
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UserError):
        build()
    assert signal.getsignal(signal.SIGINT) is before


def refusal(*flags) -> str:
    """Build over an existing plan; return the one-line refusal after a check that the plan is unchanged."""
    Path("out").mkdir(exist_ok=True)
    Path("out/model.plan").write_bytes(b"what was there")
    with pytest.raises(UserError) as error:
        build(*flags)
    assert Path("out/model.plan").read_bytes() == b"what was there"
    assert [path.name for path in Path("out").iterdir()] == ["model.plan"]
    return " ".join(str(error.value).split())


def test_parser_errors_name_their_nodes(trt, capsys):
    trt.parser_errors = [
        ParserError(12, "/decoder/topk", "LiteTopK", "plugin not\nfound"),
        ParserError(40, "/crf/where", "Where", "bad type"),
    ]
    message = refusal()
    assert "node 12 '/decoder/topk' (LiteTopK): plugin not found" in message
    assert "make plugins" in message
    assert "node 40 '/crf/where' (Where): bad type" in capsys.readouterr().err


def test_tensorrts_reason_is_reported_when_it_cannot_build(trt):
    trt.refuse_build = True
    assert "no implementation for node conv" in refusal()


def test_refused_profile_is_reported(trt):
    trt.refuse_profile = True
    assert "min 1x1 opt 16x32 max 64x127: kMAX of dimension 1 is odd" in refusal()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--min", "1x1", "--opt", "65x32", "--max", "64x127"], "batch 65 is not within 1 to 64"),
        (["--min", "1x8", "--opt", "16x4", "--max", "64x127"], "length 4 is not within 8 to 127"),
        (["--min", "1x1", "--opt", "1x8", "--max", "4x128"], "network, which has 127 positions"),
        (["--min", "1x1", "--opt", "16x32"], "each profile needs one of each"),
        (["--onnx", "absent.onnx"], "no graph at absent.onnx"),
        (["--plugins", "absent.so"], "no plugin library"),
    ],
)
def test_bad_flags(trt, flags, reason):
    assert reason in refusal(*flags)


def test_no_workspace_is_a_usage_error(trt):
    assert "--workspace is at least 1, not '0'" in refusal("--workspace", "0")


@pytest.mark.parametrize("shape", ["16", "16x", "0x4", "16x32x4", "axb"])
def test_bad_shape_is_a_usage_error(trt, shape):
    message = refusal("--opt", shape)
    assert f"--opt: '{shape}' is not a shape; write batch x length" in message


def test_a_usage_error_of_the_command_is_one_line_and_status_2():
    command = [sys.executable, "-m", "trt_code.build_engine", "--onnx", "m", "--output", "p"]
    reply = subprocess.run([*command, "--workspace", "0"], capture_output=True, text=True)
    assert reply.returncode == 2
    assert reply.stderr == "error: --workspace is at least 1, not '0'; see --help\n"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((8, "src_len"), "batch fixed at 8"), (("batch", "src_len", "x"), r"[batch, length]")],
)
def test_graph_that_the_profile_does_not_fit(trt, shape, reason):
    write_graph(Path("model.onnx"), shape)
    assert reason in refusal()


def test_graph_with_reference_functions_is_refused(trt):
    write_graph(Path("model.onnx"), functions=["LiteTopK"])
    assert "still carries the reference functions LiteTopK" in refusal()


def test_not_an_onnx_file(trt):
    Path("model.onnx").write_bytes(b"<!doctype html>")
    assert "is not an ONNX file" in refusal()


def test_weights_next_to_the_graph_must_exist(trt):
    model = onnx.load("model.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.arange(4.0), "w"))
    onnx.save(model, "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    build()
    before = sidecar()["graph"]["sha256"]
    Path("w.bin").write_bytes(Path("w.bin").read_bytes()[::-1])
    build()
    assert sidecar()["graph"]["sha256"] != before
    Path("w.bin").unlink()
    Path("out/model.plan.json").unlink()
    assert "keeps weights in w.bin, which is missing" in refusal()


def test_plugins_of_another_major(trt):
    Path("liblite_plugins_trt10.so").write_bytes(b"\x7fELF")
    message = refusal("--plugins", "liblite_plugins_trt10.so")
    assert "is built for TensorRT 10 and this is TensorRT 11.4.0.106" in message


def test_file_that_is_not_a_plugin_library(trt):
    Path("liblite_plugins_trt11.so").write_text("no")
    assert "invalid ELF header" in refusal("--plugins", "liblite_plugins_trt11.so")


def test_default_plugins_are_used_and_recorded(trt):
    library = Path("build/plugins/liblite_plugins_trt11.so")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF")
    build()
    assert sidecar()["plugins"] == []  # a graph of standard operators needs no plugins
    write_graph(Path("model.onnx"), plugin="LiteTopK")
    build()
    build()  # the registry refuses a second load, so the builder must not try one
    assert [plugin["path"] for plugin in sidecar()["plugins"]] == [f"../{library}"]


@pytest.mark.parametrize("version", ["8.6.1", "10.11.0.33", "12.0.0.1"])
def test_unsupported_tensorrt(trt, version):
    trt.__version__ = version
    assert f"TensorRT {version} is not supported" in refusal()


def test_disk_full(trt, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # a real error of the system
    try:
        message = refusal()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message == "cannot write out/model.plan: File too large"


def test_verbose_prints_what_tensorrt_says(trt, capsys):
    trt.refuse_build = True
    with pytest.raises(UserError):
        build("--verbose")
    assert "[TensorRT] ERROR: no implementation" in capsys.readouterr().err


def change_nothing(folder):
    pass


def change_options(folder):
    return ["--compute-capability", "8.6"]


def change_graph(folder):
    write_graph(Path("model.onnx"), plugin="LiteTopK", metadata={"precision": "tf32"})


def change_plugins(folder):
    Path("build/plugins/liblite_plugins_trt11.so").write_bytes(b"\x7fELF2")


def damage_plan(folder):
    Path("out/model.plan").write_bytes(b"")


def lose_json(folder):
    Path("out/model.plan.json").unlink()


def spoil_json(folder):
    Path("out/model.plan.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "builds"),
    [
        (change_nothing, 1),
        *((change, 2) for change in (change_options, change_graph, change_plugins)),
        *((change, 2) for change in (damage_plan, lose_json, spoil_json)),
    ],
)
def test_a_plan_is_built_again_only_if_something_changed(rtx, monkeypatch, capsys, change, builds):
    library = Path("build/plugins/liblite_plugins_trt11.so")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF")
    write_graph(Path("model.onnx"), plugin="LiteTopK")
    built = []
    build_plan = build_engine.build_plan
    monkeypatch.setattr(
        build_engine, "build_plan", lambda *given: built.append(1) or build_plan(*given)
    )
    build("--if-any")
    flags = change(Path()) or []
    build("--if-changed", "--verbose", *flags)
    assert len(built) == builds
    assert (
        "out/model.plan is up to date: built by TensorRT RTX 1.7.1" in capsys.readouterr().out
    ) == (builds == 1)
    build("--if-changed", *flags)
    assert len(built) == builds
    assert not {"--if-any", "--if-changed", "--verbose"} & set(sidecar()["command"].split())


def test_a_missing_report_of_layers_is_written_with_the_plan(trt, capsys):
    report = Path("layers.json")
    for expected in ("", "is up to date"):
        build("--if-changed", "--layer-report", str(report))
        assert expected in capsys.readouterr().out
    report.unlink()
    build("--if-changed", "--layer-report", str(report))
    assert report.exists()


def test_a_plan_of_another_tensorrt_or_gpu_is_built_again(trt, monkeypatch, capsys):
    build()
    for gpu in ("8.6", "8.9"):
        monkeypatch.setattr(build_engine, "current_gpu", lambda gpu=gpu: Gpu("Other GPU", gpu))
        build("--if-changed")
        assert sidecar()["gpu"]["compute_capability"] == gpu
    trt.__version__ = "11.5.0.1"
    build("--if-changed")
    assert sidecar()["tensorrt"] == "11.5.0.1"
    assert "up to date" not in capsys.readouterr().out
    build("--if-changed")
    assert "out/model.plan is up to date: built by TensorRT 11.5.0" in capsys.readouterr().out


def test_the_walkthrough_has_every_flag():
    flags = {flag for action in _parser()._actions for flag in action.option_strings}
    text = (Path(__file__).parents[3] / "doc/engine.md").read_text()
    assert not [flag for flag in flags - {"-h", "--help"} if flag not in text]


@pytest.fixture
def rtx(monkeypatch, empty_folder):
    monkeypatch.setattr(build_engine, "installed_gpus", lambda: ())
    write_graph(empty_folder / "model.onnx")
    return mock_tensorrt.install(monkeypatch, version="1.7.1.116")


def test_tensorrt_for_rtx_builds_without_a_gpu_for_every_gpu_it_serves(rtx, monkeypatch, capsys):
    # the builder must not look at the GPU
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    build()
    assert rtx.built_config._capabilities == []
    written = sidecar()
    assert (written["family"], written["gpu"]) == ("rtx", None)
    assert written["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.x"]
    assert "built by TensorRT RTX 1.7.1 for 8.0 8.6 8.9 12.x in 0.0 s" in capsys.readouterr().out


def test_compute_capabilities_reach_the_builder(rtx):
    build("--compute-capability", "8.6,12.0,8.6")
    names = [capability.name for capability in rtx.built_config._capabilities]
    assert names == ["SM86", "SM120"]
    assert rtx.built_config.num_compute_capabilities == 2
    assert sidecar()["compute_capabilities"] == ["8.6", "12.0"]


@pytest.mark.parametrize("text", ["8", "8.6,", "sm86", "8.6 8.9"])
def test_an_invalid_list_of_capabilities_is_a_usage_error(rtx, text):
    message = refusal("--compute-capability", text)
    assert f"'{text}' is not a list of compute capabilities; write portable, current" in message


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--compute-capability", "9.0"],
            "does not build for compute capability 9.0, only for 7.5",
        ),
        (["--compute-capability", "current"], "needs a GPU here"),
        (["--version-compatible"], "runs on the version that built it alone"),
    ],
)
def test_what_tensorrt_for_rtx_cannot_do_is_refused(rtx, monkeypatch, flags, reason):
    monkeypatch.setattr(capabilities, "installed_gpus", lambda: ())
    assert reason in refusal(*flags)


def test_options_that_tensorrt_for_rtx_does_not_use_are_ignored_with_a_message(rtx, capsys):
    build("--hardware-compatible", "--timing-cache", "t.cache", "--layer-report", "layers.json")
    said = capsys.readouterr().err
    for flag in ("--hardware-compatible", "--timing-cache", "--layer-report"):
        assert f"TensorRT RTX 1.7.1.116 ignores {flag}: " in said
    assert not Path("t.cache").exists()
    assert not Path("layers.json").exists()
    assert sidecar()["hardware_compatible"] == "none"


def test_plugins_need_a_newer_tensorrt_for_rtx_and_it_says_so_before_it_parses(rtx, capsys):
    rtx.__version__ = "1.6.1.120"
    rtx.parser_errors = [ParserError(3, "topk", "LiteTopK", "this would come from the parser")]
    write_graph(Path("model.onnx"), plugin="LiteTopK")
    message = refusal()
    assert message.startswith("TensorRT RTX 1.6.1.120 takes no plugins from ONNX files")
    assert "`pip install tensorrt-rtx==1.7.*`" in message
    assert "PLUGINS=none" in message
    build("--if-any")  # as make bench calls it, which then continues
    assert message in capsys.readouterr().err
    rtx.parser_errors = []
    write_graph(Path("model.onnx"))
    build()
    assert sidecar()["tensorrt"] == "1.6.1.120"


def test_compute_capabilities_are_of_tensorrt_for_rtx_alone(trt):
    assert "builds for the GPU of this machine" in refusal("--compute-capability", "8.6")


H100, A10 = Gpu("NVIDIA H100", "9.0"), Gpu("NVIDIA A10", "8.6")


@pytest.mark.parametrize(
    ("asked", "gpus", "full_is_installed", "expected"),
    [
        (None, (), False, "rtx"),
        ("auto", (), True, "rtx"),  # its builder needs a GPU
        ("auto", (A10,), False, "rtx"),
        ("auto", (A10,), True, "full"),
        ("auto", (H100,), False, "full"),
        ("rtx", (H100,), True, "rtx"),
        ("full", (), False, "full"),
    ],
)
def test_which_family_is_taken(monkeypatch, asked, gpus, full_is_installed, expected):
    monkeypatch.delenv("TENSORRT", raising=False)
    if asked:
        monkeypatch.setenv("TENSORRT", asked)
    monkeypatch.setattr(tensorrt_api, "installed_gpus", lambda: gpus)
    found = {"tensorrt": full_is_installed, "tensorrt_rtx": True}
    monkeypatch.setattr(tensorrt_api.importlib.util, "find_spec", lambda name: found[name] or None)
    assert tensorrt_api.choose_family().name == expected


def test_an_unknown_family_is_refused(monkeypatch):
    monkeypatch.setenv("TENSORRT", "lean")
    with pytest.raises(UserError, match="TENSORRT=lean is not known; choose rtx, full or auto"):
        tensorrt_api.choose_family()


def test_a_gpu_that_rtx_does_not_serve_gets_the_command_for_the_full_tensorrt(monkeypatch):
    monkeypatch.delenv("TENSORRT", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(tensorrt_api, "installed_gpus", lambda: (H100,))
    with pytest.raises(UserError) as error:
        tensorrt_api.load_tensorrt()
    assert "TensorRT RTX does not serve the NVIDIA H100 (compute capability 9.0)" in str(
        error.value
    )
    assert "`pip install tensorrt-cu13 cuda-python`" in str(error.value)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="the full TensorRT is installed here")
def test_without_tensorrt_one_line_and_status_2(tmp_path):
    write_graph(tmp_path / "model.onnx")
    command = [sys.executable, "-m", "trt_code.build_engine", "--onnx", tmp_path / "model.onnx"]
    reply = subprocess.run(
        [*command, "--output", tmp_path / "x.plan"],
        capture_output=True,
        text=True,
        env=os.environ | {"TENSORRT": "full"},
    )
    assert reply.returncode == 2
    assert reply.stderr.startswith("error: TensorRT for Python is not here")
    assert reply.stderr.count("\n") == 1
    assert not (tmp_path / "x.plan").exists()
