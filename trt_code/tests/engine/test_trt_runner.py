"""The TensorRT runner and the plan's sidecar with mocks: only the control flow. No engine is run."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from onnx_export.paths import plain_path
from train_model.cli import UserError
from train_model.data.files import sha256_of
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import ModelFolder
from trt_code.engine.profiles import Profile, Shape, best_profile
from trt_code.runners import Unavailable, create
from trt_code.runners.one_pass import trt_runner
from trt_code.runners.one_pass.trt_runner import TrtRunner, find_plan
from trt_code.stress.under_load import in_threads
from trt_code.tests.engine import mock_tensorrt
from trt_code.tests.engine.graphs import write_graph
from trt_code.tests.engine.mock_cudart import MockCudart
from trt_code.tests.engine.plans import PLAN, build, tokens
from trt_code.tests.runners.fake_runner import FakeRunner
from trt_code.text.translator import LineTranslator

DEMO = ModelFolder("demo", Path("checkpoint.pt"))


def rewrite_sidecar(**changes):
    path = Path(f"{PLAN}.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def runner() -> TrtRunner:
    return create("trt", DEMO, "fp16", "cuda")


@pytest.mark.parametrize("elem_type", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_input_reaches_the_device_in_the_engines_type(trt, elem_type, order):
    build(elem_type=elem_type)
    with runner() as running:
        source = np.asarray(tokens(3, 5), order=order)
        output = running.run(source)
    assert output.tokens.dtype == np.int64
    np.testing.assert_array_equal(output.tokens, np.concatenate([source, source], 1))
    assert output.scores.dtype == np.float32
    np.testing.assert_array_equal(output.scores, np.full((3, 10), 3005, np.float32))


def test_one_graph_per_shape_and_results_belong_to_the_caller(trt):
    build()
    with runner() as running:
        first = running.run(tokens(2, 3))
        kept = first.tokens.copy()
        running.run(tokens(2, 3) + 1)
        running.run(tokens(4, 3))
        np.testing.assert_array_equal(first.tokens, kept)
        assert trt.cudart.live_graphs == 2
        assert trt.cudart.launches == 3


def test_threads_that_call_one_runner_get_their_own_results(trt):
    build()
    # so that several threads are in the middle of a pass
    trt.enqueue = mock_tensorrt.slowly(trt.enqueue)
    with runner() as running:

        def work(number: int) -> None:
            for i in range(5):
                source = tokens(2, 3) + 100 * number + i
                np.testing.assert_array_equal(running.run(source).tokens[:, :3], source)

        in_threads(8, work)


def test_close_frees_everything(trt):
    build()
    running = runner()
    running.run(tokens(2, 3))
    assert running.peak_memory() == 4096 + 2 * 3 * 8 + 2 * 6 * (8 + 4)
    running.close()
    assert not trt.cudart.memory
    assert not trt.cudart.live_graphs


def test_the_least_recently_used_shape_is_dropped(trt, monkeypatch):
    monkeypatch.setattr(trt_runner, "MAX_SHAPES", 2)
    build()
    with runner() as running:
        for length in (3, 4, 3, 5):
            running.run(tokens(1, length))
        assert running._ready.keys() == [(1, 3), (1, 5)]
        assert trt.cudart.live_graphs == 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (tokens(65, 3), "65x3 is outside the engine's profiles (1x1 to 64x127)"),
        (tokens(1, 128), "1x128 is outside"),
        (tokens(0, 4), "0x4 is outside"),
        (tokens(2, 3)[0], "whole numbers of [batch, length]"),
        (tokens(2, 3).astype(np.float32), "float32 of shape (2, 3)"),
    ],
)
def test_bad_input_is_refused_before_the_gpu_sees_it(trt, source, reason):
    build()
    with runner() as running:
        before = dict(trt.cudart.memory)
        with pytest.raises(UserError) as error:
            running.run(source)
        assert reason in str(error.value)
        assert trt.cudart.memory == before
        assert trt.cudart.launches == 0


def test_the_profile_with_the_nearest_opt_is_taken(trt):
    one = ["--min", "1x1", "--opt", "1x32", "--max", "1x127"]
    build("--min", "1x1", "--opt", "32x64", "--max", "64x127", *one)
    with runner() as running:
        running.run(tokens(1, 30))
        running.run(tokens(20, 30))
        profiles = {
            shape: shape_run._context._profile for shape, shape_run in running._ready._ready.items()
        }
    assert profiles == {(1, 30): 1, (20, 30): 0}


def test_best_profile_looks_at_both_axes():
    small = Profile(Shape(1, 1), Shape(1, 8), Shape(8, 16))
    large = Profile(Shape(4, 8), Shape(32, 32), Shape(64, 64))
    assert best_profile([small, large], Shape(4, 8)) == 0
    assert best_profile([small, large], Shape(8, 16)) == 1
    assert best_profile([small, large], Shape(2, 8)) == 0
    with pytest.raises(UserError, match="1x1 to 8x16; 4x8 to 64x64"):
        best_profile([small, large], Shape(3, 32))


def test_limits_are_the_widest_profiles(trt):
    build("--min", "1x1", "--opt", "1x32", "--max", "2x50")
    with runner() as running:
        assert (running.max_batch, running.max_source) == (2, 50)


def test_the_translator_keeps_to_the_engines_batch(tiny_files):
    fake = FakeRunner()
    fake.max_batch = 2
    LineTranslator(fake, Tokenizer.from_files(tiny_files)).translate(["one"] * 5)
    assert [batch for batch, _ in fake.shapes] == [2, 2, 1]


def test_engine_that_cannot_be_captured_is_enqueued(trt):
    build()
    trt.cudart.refuse_capture = True
    source = tokens(2, 3)
    with runner() as running:
        with pytest.warns(UserWarning, match="cannot be captured"):
            running.run(source)
        output = running.run(source + 1)  # the second pass must read new input
    np.testing.assert_array_equal(output.tokens[:, :3], source + 1)
    assert trt.cudart.launches == 0


def test_times_every_pass_on_the_devices_clock(trt):
    build()
    with runner() as running:
        timing = running.time(tokens(2, 3), repeats=4)
    assert timing.device_ms == [1.5] * 4
    assert len(timing.host_ms) == 4


def test_failed_run_is_one_line(trt):
    build()
    trt.refuse_execution = True
    with runner() as running, pytest.raises(UserError, match="enqueue failed"):
        running.run(tokens(2, 3))


def refusal() -> str:
    with pytest.raises(Unavailable) as error:
        runner()
    message = " ".join(str(error.value).split())
    assert "python -m trt_code.build_engine --onnx build/demo/model.fp16.onnx" in message
    return message


def test_missing_plan(trt):
    assert "no engine at build/demo/model.fp16.plan" in refusal()


def test_plan_without_its_json(trt):
    build()
    Path(f"{PLAN}.json").unlink()
    assert "has no model.fp16.plan.json" in refusal()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"profiles": []}, "no profiles"),
        ({"tensorrt": "x.y"}, "a version 'x.y'"),
        ({"build_seconds": 1e999}, "build_seconds is inf"),
        ({"build_seconds": "1"}, "build_seconds is '1'"),
        ({"graph": {"path": "9" * 999, "sha256": "0"}}, "a path of 999 characters"),
    ],
)
def test_json_that_no_build_writes(trt, changes, reason):
    build()
    rewrite_sidecar(**changes)
    assert f"not a description this version reads ({reason})" in refusal()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}'])
def test_json_of_another_form(trt, text):
    build()
    Path(f"{PLAN}.json").write_text(text)
    assert re.search("is not (a description this version reads|JSON)", refusal())


@pytest.mark.parametrize("graph", ["here", "missing"])
def test_a_plan_of_other_weights_is_one_line(trt, graph):
    """The plan's JSON has the graph's metadata, so that the graph is not needed."""
    DEMO.checkpoint.write_bytes(b"weights")
    build(metadata={"config": json.dumps({"made_from": [sha256_of(DEMO.checkpoint)]})})
    named = PLAN.with_suffix(".onnx")
    if graph == "missing":
        named.unlink()
        named = PLAN
    runner().close()
    DEMO.checkpoint.write_bytes(b"other weights")
    reason = (
        f"{named} is of other weights or options than checkpoint.pt: make it again (touch checkpoint.pt; "
        "make engine-fp16 MODEL=demo)"
    )
    with pytest.raises(Unavailable, match=re.escape(reason)):
        runner()


def test_a_plan_of_another_precision_is_one_line(trt):
    build(metadata={"precision": "bf16"})
    with pytest.raises(Unavailable, match=r"model\.fp16\.onnx is in bf16, not in fp16: remove it"):
        runner()


def test_changed_graph_makes_the_plan_stale(trt):
    build()
    write_graph(PLAN.with_suffix(".onnx"), shape=("b", "s"))
    assert "is older than its graph" in refusal()


def test_the_graph_may_be_elsewhere(trt):
    build()
    PLAN.with_suffix(".onnx").unlink()
    runner().close()


def test_changed_or_missing_plugins_make_the_plan_stale(trt):
    library = Path("build/plugins/liblite_plugins_trt11.so")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF")
    build(plugin="LiteTopK")
    library.write_bytes(b"\x7fELF, built again")
    assert "was built with other plugins" in refusal()
    library.unlink()
    assert "which are missing (`make plugins`)" in refusal()


def test_damaged_plan(trt):
    build()
    PLAN.write_bytes(PLAN.read_bytes()[:-1])
    assert "is not the file that was built" in refusal()


def test_plan_that_tensorrt_cannot_load(trt):
    build()
    PLAN.write_bytes(b"not a plan")
    rewrite_sidecar(plan_sha256=sha256_of(PLAN))
    assert "Serialization assertion magicTag failed" in refusal()


@pytest.mark.parametrize(
    ("built", "running", "compatible", "fits"),
    [
        ("11.4.0.106", "11.4.0.106", False, True),
        ("11.4.0.105", "11.4.0.106", False, False),
        ("11.1.0.1", "11.4.0.106", True, True),
        ("11.5.0.1", "11.4.0.106", True, False),
        ("10.16.1.11", "11.4.0.106", True, False),
    ],
)
def test_plan_of_another_tensorrt(trt, built, running, compatible, fits):
    build()
    rewrite_sidecar(tensorrt=built, version_compatible=compatible)
    trt.__version__ = running
    if fits:
        runner().close()
    else:
        assert f"is of TensorRT {built} and this is {running}" in refusal()


@pytest.mark.parametrize(
    ("name", "capability", "compatible", "fits"),
    [
        ("Mock GPU", (9, 0), "none", True),
        ("Other GPU", (9, 0), "none", False),
        ("Other GPU", (9, 0), "same-compute-capability", True),
        ("Other GPU", (8, 6), "same-compute-capability", False),
        ("Other GPU", (10, 0), "ampere-plus", True),
        ("Other GPU", (7, 5), "ampere-plus", False),
    ],
)
def test_plan_of_another_gpu(trt, name, capability, compatible, fits):
    build("--hardware-compatible", compatible)
    trt.cudart.name, trt.cudart.capability = name, capability
    if fits:
        runner().close()
    else:
        assert f"this is {name} (compute capability {'.'.join(map(str, capability))})" in refusal()


def test_no_tensorrt_no_cuda_python_no_gpu(trt, monkeypatch):
    build()
    with pytest.raises(Unavailable) as error:
        create("trt", DEMO, "fp16", "cpu")
    assert re.fullmatch(
        r"built by TensorRT 11.4.0 for Mock GPU \(compute capability 9.0\) in 0.0 s, 0.0 MiB; "
        "not run: (no GPU here|TensorRT runs on a GPU only; use --device cuda, or the runner ort)",
        error.value.row,
    )
    for module, reason in (
        ("cuda.bindings.runtime", "cuda-python is not here"),
        ("tensorrt", "TensorRT for Python is not here"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(Unavailable, match=reason):
            runner()


@pytest.fixture
def rtx(monkeypatch, empty_folder):
    return mock_tensorrt.install(monkeypatch, MockCudart("NVIDIA A10", (8, 6)), version="1.7.1.116")


def test_tensorrt_for_rtx_runs_the_plan_with_its_kernels_compiled_for_each_shape(rtx):
    build()
    with runner() as running:
        output = running.run(tokens(2, 3))
        assert rtx.cudart.live_graphs == 1
    np.testing.assert_array_equal(output.tokens[:, :3], tokens(2, 3))
    (config,) = rtx.context_settings
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert config.cuda_graph_strategy.name == "DISABLED"  # captured by the runner


@pytest.mark.parametrize(
    ("graph", "strategy"), [("library", "WHOLE_GRAPH_CAPTURE"), ("none", "DISABLED")]
)
def test_tensorrt_for_rtx_may_capture_and_compile_by_itself(rtx, graph, strategy):
    build()
    with create("trt", DEMO, "fp16", "cuda", kernels="lazy", cuda_graph=graph) as running:
        for shift in (0, 1):
            output = running.run(tokens(2, 3) + shift)
            np.testing.assert_array_equal(output.tokens[:, :3], tokens(2, 3) + shift)
        assert rtx.cudart.live_graphs == 0
    (config,) = rtx.context_settings
    assert config.cuda_graph_strategy.name == strategy
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "LAZY"


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"kernels": "later"}, UserError, "kernels is one of eager, lazy, none, not 'later'"),
        ({"cuda_graph": "all"}, UserError, "cuda_graph is one of runner, library, none, not 'all'"),
        ({"kernels": "lazy"}, Unavailable, "choose cuda_graph 'library' or 'none'"),
    ],
)
def test_options_that_do_not_fit(rtx, options, error, reason):
    build()
    with pytest.raises(error, match=reason):
        create("trt", DEMO, "fp16", "cuda", **options)


def test_compiled_kernels_are_kept_for_the_next_start(rtx, capsys):
    build()
    kernels = Path(f"{PLAN}.kernels")
    for expected in (b"kernels of NVIDIA A10\nkernel", b"kernels of NVIDIA A10\nkernel\nkernel"):
        with runner() as running:
            running.run(tokens(2, 3))
        assert kernels.read_bytes() == expected
    before = kernels.stat().st_mtime_ns
    runner().close()  # nothing new is stored
    assert kernels.stat().st_mtime_ns == before
    kernels.write_bytes(b"of another machine")
    with runner() as running:
        running.run(tokens(2, 3))
    assert "compiles kernels again" in capsys.readouterr().err
    assert kernels.read_bytes() == b"kernels of NVIDIA A10\nkernel"


@pytest.mark.parametrize(
    ("built", "capability", "fits"),
    [
        ("portable", (8, 6), True),
        ("portable", (12, 1), True),
        ("portable", (7, 5), False),
        ("portable", (9, 0), False),
        ("8.6,12.0", (8, 6), True),
        ("8.6,12.0", (8, 9), False),
    ],
)
def test_plan_of_tensorrt_for_rtx_on_another_gpu(rtx, built, capability, fits):
    build("--compute-capability", built)
    rtx.cudart.capability = capability
    if fits:
        runner().close()
    else:
        listed = "8.0 8.6 8.9 12.x" if built == "portable" else "8.6 12.0"
        this = f"NVIDIA A10 (compute capability {capability[0]}.{capability[1]})"
        assert f"is for compute capability {listed} and this is {this}" in refusal()


def test_plan_of_the_other_family(rtx, monkeypatch):
    build()
    monkeypatch.setenv("TENSORRT", "full")
    assert "is of TensorRT RTX and TENSORRT=full asks for TensorRT; leave TENSORRT out" in refusal()
    mock_tensorrt.install(monkeypatch)  # only the full TensorRT
    monkeypatch.delenv("TENSORRT")
    with pytest.raises(Unavailable, match="TensorRT RTX for Python is not here"):
        runner()


def test_the_plan_without_plugins_runs_alone_and_next_to_the_other(trt):
    build()
    for path in (PLAN, Path(f"{PLAN}.json")):
        path.rename(str(path).replace("fp16.plan", "fp16.plain.plan"))
    assert find_plan(PLAN, plain=False) == plain_path(PLAN)
    runner().close()
    with pytest.raises(Unavailable, match="the same plan as the runner without -plain"):
        create("trt-plain", DEMO, "fp16", "cuda")
    build()
    assert find_plan(PLAN, plain=False) == PLAN
    with create("trt-plain", DEMO, "fp16", "cuda") as running:
        assert running.name == "trt-plain"
        assert running.int8_report == Path("build/demo/model.fp16.plain.layers.json")
        assert running.run(tokens(2, 3)).tokens.shape == (2, 6)


def test_the_full_tensorrt_has_fewer_options(trt):
    build()
    for options, reason in (
        (
            {"kernels": "none"},
            "kernels 'none' is an option of TensorRT RTX and the plan is of TensorRT 11",
        ),
        ({"cuda_graph": "library"}, "choose runner or none"),
    ):
        with pytest.raises(Unavailable, match=reason):
            create("trt", DEMO, "fp16", "cuda", **options)
    with create("trt", DEMO, "fp16", "cuda", cuda_graph="none") as running:
        running.run(tokens(2, 3))
        assert trt.cudart.live_graphs == 0
