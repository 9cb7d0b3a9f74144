"""The TensorRT runner over two engines with mocks: only the control flow. No engine is run."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from train_model.cli import UserError
from train_model.model_folder import ModelFolder
from trt_code import build_engine
from trt_code.runners import Unavailable, create
from trt_code.runners.one_pass import trt_runner
from trt_code.runners.one_pass.trt_split_runner import TrtSplitRunner
from trt_code.stress.under_load import in_threads
from trt_code.tests.engine import mock_tensorrt

MODEL = Path("build/demo/model.fp16.plan")
DEMO = ModelFolder("demo", Path("checkpoint.pt"))
SOURCE = ["batch", "src_len"]
CANVAS = ["batch", "canvas"]
HALVES = {
    "encoder": (
        {"src_tokens": (TensorProto.INT64, SOURCE)},
        {
            "encoded": (TensorProto.FLOAT, [*SOURCE, 4]),
            "lengths": (TensorProto.INT64, ["batch"]),
        },
    ),
    "decoder": (
        {
            "src_tokens": (TensorProto.INT64, SOURCE),
            "encoded": (TensorProto.FLOAT, [*SOURCE, 4]),
            "canvas": (TensorProto.INT64, CANVAS),
        },
        {
            "output_tokens": (TensorProto.INT64, CANVAS),
            "output_scores": (TensorProto.FLOAT, CANVAS),
        },
    ),
}
METADATA = {"max_source_positions": "30", "max_target_positions": "40", "precision": "fp16"}


def write_half(path: Path, half: str, metadata: dict[str, str] = METADATA) -> None:
    """Write a graph with a half's inputs and outputs, without a network."""
    inputs, outputs = (
        [helper.make_tensor_value_info(name, *kind) for name, kind in side.items()]
        for side in HALVES[half]
    )
    nodes = [helper.make_node("Identity", ["src_tokens"], [item.name]) for item in outputs]
    model = helper.make_model(helper.make_graph(nodes, half, inputs, outputs))
    helper.set_model_props(model, metadata | {"half": half})
    save(model, path)


def build_half(half: str, *flags: str, **more: str) -> None:
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    plan = MODEL.with_suffix(f".{half}.plan")
    write_half(plan.with_suffix(".onnx"), half, METADATA | more)
    build_engine.main(["--onnx", str(plan.with_suffix(".onnx")), "--output", str(plan), *flags])


def build() -> None:
    for half in HALVES:
        build_half(half)


def network(context) -> None:
    """A translation is as long as its source, and every word of it is the source's second token."""
    source = context._array("src_tokens")
    if "lengths" in context._engine._tensors:
        context._array("encoded")[:] = source[:, :, None]
        context._array("lengths")[:] = (source != 1).sum(1)
    else:
        canvas, encoded = context._array("canvas"), context._array("encoded")
        np.testing.assert_array_equal(encoded[:, :, 0], source)
        context._array("output_tokens")[:] = np.where(canvas == 3, encoded[:, 1:2, 0], canvas)
        context._array("output_scores")[:] = np.where(canvas == 1, 0, canvas.shape[1])


@pytest.fixture
def trt(trt):
    trt.enqueue = lambda context, stream: trt.cudart.enqueue(lambda: network(context))
    return trt


def runner() -> TrtSplitRunner:
    return create("trt-split", DEMO, "fp16", "cuda")


def sources(*lengths: int, first_word: int = 50) -> np.ndarray:
    """Return rows of the given lengths; row i has ``first_word + i`` as its second token."""
    batch = np.full((len(lengths), max(lengths)), 1, np.int64)
    for number, (row, length) in enumerate(zip(batch, lengths, strict=True)):
        row[:length] = [0, first_word + number, *[9] * (length - 3), 2]
    return batch


def test_the_canvas_ends_with_the_longest_translation(trt):
    build()
    with runner() as running:
        output = running.run(sources(5, 12))
        widths = [key[-1][1] for key in list(running._ready.keys()) if key[0] == "decoder"]
    assert widths == [16]  # 12, in steps of 8
    assert output.tokens.dtype == np.int64
    assert output.tokens.shape == (2, 24)  # the width that the whole network returns
    assert output.tokens[0].tolist() == [0, 50, 50, 50, 2, *[1] * 19]
    assert output.tokens[1].tolist() == [0, *[51] * 10, 2, *[1] * 12]
    assert output.scores.dtype == np.float32
    np.testing.assert_array_equal(output.scores[1], [16.0] * 12 + [0.0] * 12)


def test_several_translations_have_the_lengths_next_to_the_predicted_one(trt):
    build()
    with runner() as running:
        found, plain = running.candidates(sources(5, 12), 3), running.run(sources(5, 12))
        one = running.candidates(sources(5, 12), 1)
    assert found.counts.tolist() == [3, 3]
    for row, (length, word) in enumerate([(5, 50), (12, 51)]):
        lengths = found.lengths[row] + 1  # bos
        assert (lengths[0], *sorted(lengths[1:])) == (length, length - 1, length + 1)
        for tokens, width in zip(found.tokens[row], found.lengths[row], strict=True):
            assert tokens.tolist() == [word] * (width - 1) + [2] + [1] * (len(tokens) - width)
    np.testing.assert_array_equal(found.tokens[:, 0], plain.tokens[:, 1:])
    np.testing.assert_array_equal(one.tokens[:, 0], plain.tokens[:, 1:])


def test_a_graph_for_each_shape_and_each_width(trt):
    build()
    with runner() as running:
        first = running.run(sources(5, 12))
        kept = first.tokens.copy()
        running.run(sources(5, 12, first_word=70))
        assert trt.cudart.live_graphs == 2
        running.run(np.pad(sources(5, 6), ((0, 0), (0, 6)), constant_values=1))
        assert trt.cudart.live_graphs == 3  # the encoder's graph exists, but the canvas is narrower
        running.run(sources(5, 12, 7))
        assert trt.cudart.live_graphs == 5
        assert trt.cudart.launches == 8
        np.testing.assert_array_equal(first.tokens, kept)


def test_the_canvas_is_never_wider_than_the_networks(trt):
    build()
    with runner() as running:
        assert running.run(sources(3)).tokens.shape == (1, 6)
        assert running.run(sources(30)).tokens.shape == (1, 40)


def test_threads_that_call_one_runner_get_their_own_results(trt):
    build()
    # so that several threads are in the middle of a pass
    trt.enqueue = mock_tensorrt.slowly(trt.enqueue)
    with runner() as running:

        def work(number: int) -> None:
            for i in range(5):
                source = sources(5, 4 + number, first_word=100 * number + 10 * i + 20)
                assert (running.run(source).tokens[:, 1:3] == source[:, 1:2]).all()

        in_threads(8, work)


def test_device_time_has_both_halves(trt):
    build()
    with runner() as running:
        timing = running.time(sources(5, 12), 4)
        assert len(timing.device_ms) == len(timing.host_ms) == 4
        assert trt.cudart.launches == 2 * (3 + 4 + 3 + 4)


def test_close_frees_everything(trt):
    build()
    running = runner()
    running.run(sources(5, 12))
    assert running.peak_memory() > 0
    running.close()
    assert not trt.cudart.memory
    assert not trt.cudart.live_graphs


def test_the_least_recently_used_graph_is_dropped(trt, monkeypatch):
    monkeypatch.setattr(trt_runner, "MAX_SHAPES", 3)
    build()
    with runner() as running:
        for length in (4, 12, 20, 4):
            output = running.run(sources(length))
            assert output.tokens[0, :length].tolist() == [0, *[50] * (length - 2), 2]
        assert trt.cudart.live_graphs == 3


def test_limits_are_those_of_both_engines(trt):
    build_half("encoder")
    profile = ["--min", "1x1", "--opt", "2x8", "--max", "4x20"]
    build_half("decoder", *profile, "--axis", "canvas=1:8:24")
    with runner() as running:
        assert (running.max_batch, running.max_source) == (4, 20)
        assert running.run(sources(20)).tokens.shape == (1, 24)
        for batch in (sources(*[4] * 5), sources(21)):
            with pytest.raises(UserError, match="outside the engine's profiles"):
                running.run(batch)


def test_what_is_missing_or_mixed_up_is_one_line(trt):
    with pytest.raises(Unavailable, match=r"no engine at .*model\.fp16\.encoder\.plan"):
        runner()
    build_half("encoder")
    with pytest.raises(Unavailable, match=r"no engine at .*model\.fp16\.decoder\.plan"):
        runner()
    plan, other = (MODEL.with_suffix(f".{half}.plan") for half in ("decoder", "encoder"))
    for suffix in ("", ".json"):
        Path(f"{plan}{suffix}").write_bytes(Path(f"{other}{suffix}").read_bytes())
    with pytest.raises(Unavailable, match="the decoder's are canvas, encoded"):
        runner()
    with pytest.raises(Unavailable, match=r"no GPU here|GPU only"):
        create("trt-split", DEMO, "fp16", "cpu")


@pytest.mark.parametrize(("max_iter", "passes"), [(None, 3), (1, 2)])
def test_the_decoder_of_an_iterative_network_runs_once_per_pass(trt, max_iter, passes):
    """Both plans are where make puts them; the decoder adds 1 to every word of its canvas."""
    files = ModelFolder("demo", Path("checkpoint.pt"), "iterative_nonautoregressive_transformer")
    MODEL.parent.mkdir(parents=True)
    for half, plan in (("encoder", MODEL.with_suffix(".encoder.plan")), ("decoder", MODEL)):
        config = {"config": '{"iter_decode_max_iter": 2}', "architecture": files.architecture}
        write_half(plan.with_suffix(".onnx"), half, METADATA | config)
        build_engine.main(["--onnx", str(plan.with_suffix(".onnx")), "--output", str(plan)])

    def one_pass(context) -> None:
        network(context)
        if "canvas" in context._engine._tensors:
            canvas = context._array("canvas")
            context._array("output_tokens")[:] = np.where(canvas > 2, canvas + 1, canvas)

    trt.enqueue = lambda context, stream: trt.cudart.enqueue(lambda: one_pass(context))
    with create("trt", files, "fp16", "cuda", max_iter=max_iter) as running:
        output = running.run(sources(5, 7))
        assert trt.cudart.launches == 1 + passes
    assert output.tokens[0, :6].tolist() == [0, *[3 + passes] * 3, 2, 1]
    MODEL.with_suffix(".onnx").unlink()
    create("trt", files, "fp16", "cuda").close()  # the plan's JSON has the graph's metadata
    record = Path(f"{MODEL}.json")  # of an older version
    record.write_text(json.dumps(json.loads(record.read_text()) | {"metadata": {}}))
    with pytest.raises(Unavailable, match="says how often its decoder runs"):
        create("trt", files, "fp16", "cuda")


def test_plans_of_two_exports_are_one_line(trt):
    build_half("encoder", pair="1")
    build_half("decoder", pair="2")
    with pytest.raises(Unavailable, match="are of two exports; build both again: python -m"):
        runner()


def test_plans_of_other_weights_are_one_line(trt):
    DEMO.checkpoint.write_bytes(b"weights")
    for half in HALVES:
        build_half(half, config=json.dumps({"made_from": ["0" * 64]}))
    with pytest.raises(Unavailable, match=r"is of other weights .* make engine-split MODEL=demo"):
        runner()
