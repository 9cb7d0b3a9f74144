"""The search over two mocked TensorRT engines, which compute with the network's halves in PyTorch.

Tests only the control flow: the engines' shapes, types and addresses, and that a search over them agrees with
the network. No engine is run.
"""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from onnx_export import export_ar
from onnx_export.paths import half_path
from train_model.cli import UserError
from train_model.model_folder import ModelFolder
from train_model.models.beam_search import as_hypotheses, search
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import DecoderStep, IncrementalDecoder, SourceEncoder
from train_model.tests.networks import network
from trt_code import build_engine, onnx_surgeon
from trt_code.cuda_graph import capture
from trt_code.engine.plan import RuntimeOptions
from trt_code.runners import Unavailable, create
from trt_code.runners.search import graphed_search
from trt_code.runners.search.trt_steps import EngineHalves
from trt_code.tests.engine import mock_tensorrt
from trt_code.tests.engine.mock_cudart import MockCudart

FILES = ModelFolder("small-ar", Path("checkpoint.pt"), architecture="transformer_multibranch_v2")
STEP = Path("build/small-ar/model.fp16.plan")
ENCODER = half_path(STEP, "encoder")
MODEL = network("dynamic")
WORDS = MODEL.config.src_vocab


class AnyAddress:
    """Accepts any address: PyTorch's memory here is host memory, unknown to the mocked CUDA runtime."""

    def __contains__(self, address):
        return address != 0


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Both patched graphs; the weights in them are not used."""
    folder = tmp_path_factory.mktemp("graphs")
    export_ar.write(MODEL, folder / "model.onnx")
    output = folder / STEP.with_suffix(".onnx").name
    arguments = ["--input", str(folder / "model.onnx"), "--output", str(output)]
    assert onnx_surgeon.main([*arguments, "--precision", "fp16"]) == 0
    return folder


@pytest.fixture
def trt(trt, graphs):
    STEP.parent.mkdir(parents=True)
    for path in graphs.iterdir():
        shutil.copy(path, STEP.parent)
    return mocked(trt)


def mocked(trt):
    trt.cudart.memory = AnyAddress()
    trt.contexts = []
    trt.enqueue = lambda context, stream: compute(trt, context)
    return trt


def on_host(context, name):
    return torch.from_numpy(context._array(name))


def on_gpu(context, name):
    """Return the tensor at the context's address."""
    kind = np.dtype(mock_tensorrt.nptype(context._engine.get_tensor_dtype(name)))
    memory = SimpleNamespace(
        __cuda_array_interface__={
            "shape": context.get_tensor_shape(name),
            "typestr": kind.str,
            "data": (context._addresses[name], False),
            "version": 3,
        }
    )
    return torch.as_tensor(memory, device="cuda")


def compute(trt, context, model=MODEL, tensor=on_host):
    """Run the half that the context's engine represents, on the tensors at its addresses."""
    if context not in trt.contexts:
        trt.contexts.append(context)
    tensors = {name: tensor(context, name) for name in context._engine._tensors}
    inputs, outputs = (
        [tensor for name, tensor in tensors.items() if (name in context._engine._inputs) is wanted]
        for wanted in (True, False)
    )
    with torch.inference_mode():
        if "src_tokens" in tensors:
            results = SourceEncoder(model)(*inputs)
        else:
            count = 3 + sum(name.startswith("source.") for name in tensors)
            logprobs, state = DecoderStep(model)(*inputs[:3], inputs[3:count], inputs[count:])
            results = [logprobs, *state]
        for output, result in zip(outputs, results, strict=True):
            output.copy_(result)


def build(*flags, step_flags=()):
    for plan, more in ((ENCODER, ()), (STEP, step_flags)):
        graph = plan.with_suffix(".onnx")
        build_engine.main(["--onnx", str(graph), "--output", str(plan), *flags, *more])


def engines_search():
    return EngineHalves(STEP, torch.device("cpu")).search(graphed_search.without_capture)


def source(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), 1)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(4, WORDS, (length,), generator=generator)
        row[length - 1] = 2
    return tokens


def assert_same(found, expected):
    for ours, theirs in zip(as_hypotheses(found), as_hypotheses(expected), strict=True):
        assert [h.tokens.tolist() for h in ours] == [h.tokens.tolist() for h in theirs]
        torch.testing.assert_close(
            [h.score for h in ours], [h.score for h in theirs], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(("beam", "len_penalty"), [(1, 1.0), (4, 0.6)])
def test_a_search_finds_what_the_network_finds(trt, beam, len_penalty, monkeypatch):
    """With changing shapes, few contexts, and a growing state."""
    monkeypatch.setattr(graphed_search, "CAPACITY", 1)
    monkeypatch.setattr(graphed_search, "ROOM_STEP", 16)
    build()
    engines, plain = engines_search(), IncrementalDecoder.of(MODEL)
    options = SearchOptions(beam=beam, len_penalty=len_penalty, max_len_b=20)
    for tokens in (source(5), source(9, 4, 17), source(5, seed=1), source(9, 4, 17, seed=2)):
        assert_same(engines(tokens, options), search(plain, tokens, options))
    widths = {
        context._shapes["src_tokens"] for context in trt.contexts if len(context._shapes) == 1
    }
    assert widths == {(1, 16), (3, 32)}  # masked padding changes nothing, so few widths occur
    rooms = {context._shapes.get("layers.0.0.key", (0, 0, 0))[2] for context in trt.contexts}
    assert rooms <= {0, 16, 21}


def test_every_set_of_shapes_has_one_context(trt):
    build()
    engines = engines_search()
    for seed in range(3):
        engines(source(7, 7, seed=seed), SearchOptions(beam=2, max_len_b=12))
    assert len(trt.contexts) == 2  # one of the encoder, one of the step
    assert all(context._profile == 0 for context in trt.contexts)


def test_translations_end_where_the_engine_has_no_room(trt):
    build(step_flags=("--axis", "room=1:8:12"))
    options = SearchOptions(beam=2)
    found = engines_search()(source(6, 9), options)
    shorter = IncrementalDecoder.of(MODEL)
    shorter.max_target_positions = 12
    assert_same(found, search(shorter, source(6, 9), options))
    assert found.lengths.max() == 12


def test_limits_are_those_of_both_engines(trt):
    build("--min", "1x1", "--opt", "2x8", "--max", "4x16")
    halves = EngineHalves(STEP, torch.device("cpu"))
    assert (halves.max_batch, halves.max_source) == (4, 16)
    with pytest.raises(UserError, match="5x16 is outside the engine's profiles"):
        engines_search()(source(*[16] * 5), SearchOptions(beam=1))
    halves.check_beam(4)
    with pytest.raises(UserError, match=r"beam of up to 4, not 5.*--axis beam=1:1:5"):
        halves.check_beam(5)


def test_missing_files_are_reported(trt, monkeypatch):
    with pytest.raises(Unavailable, match="on a GPU only"):
        create("trt", FILES, "fp16", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="PyTorch, which does the search"):
            create("trt", FILES, "fp16", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(Unavailable, match=r"no engine at .*model\.fp16\.encoder\.plan"):
        create("trt", FILES, "fp16", "cuda")
    build()
    with pytest.raises(Unavailable, match="beam of up to 4, not 8"):
        create("trt", FILES, "fp16", "cuda", beam=8)


def test_engines_of_something_else_are_refused(trt):
    build()
    for wrong, right, reason in (
        (ENCODER, STEP, "not the encoder"),
        (STEP, ENCODER, "not the step"),
    ):
        for end in ("", ".json"):
            shutil.copy(f"{wrong}{end}", f"{wrong}{end}.kept")
            shutil.copy(f"{right}{end}", f"{wrong}{end}")
        with pytest.raises(UserError, match=reason):
            EngineHalves(STEP, torch.device("cpu"))
        for end in ("", ".json"):
            shutil.move(f"{wrong}{end}.kept", f"{wrong}{end}")


def test_plans_of_other_weights_or_of_two_exports_are_one_line(trt, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    build()
    record = Path(f"{STEP}.json")
    content = json.loads(record.read_text())

    def rewrite(**changes):
        record.write_text(json.dumps(content | {"metadata": content["metadata"] | changes}))

    FILES.checkpoint.write_bytes(b"weights")
    rewrite(config=json.dumps({"made_from": ["0" * 64]}))
    with pytest.raises(Unavailable, match=r"is of other weights .* make engine-fp16 MODEL=small"):
        create("trt", FILES, "fp16", "cuda")
    rewrite(pair="of another export")
    with pytest.raises(Unavailable, match="are of two exports"):
        create("trt", FILES, "fp16", "cuda")


def test_options_reach_both_engines(trt, monkeypatch):
    cudart = MockCudart("NVIDIA A10", (8, 6))
    rtx = mocked(mock_tensorrt.install(monkeypatch, cudart, version="1.7.1.116"))
    build()
    options = RuntimeOptions(kernels="lazy", cuda_graph="none")
    halves = EngineHalves(STEP, torch.device("cpu"), options)
    halves.search(graphed_search.without_capture)(source(4), SearchOptions(beam=1))
    strategies = {
        config.dynamic_shapes_kernel_specialization_strategy.name for config in rtx.context_settings
    }
    assert strategies == {"LAZY"}
    assert len(rtx.context_settings) >= 2
    with pytest.raises(UserError, match="'library' is for one-pass models"):
        EngineHalves(STEP, torch.device("cpu"), RuntimeOptions(cuda_graph="library"))


def test_an_engine_that_fails_is_reported(trt):
    build()
    trt.refuse_execution = True
    with pytest.raises(UserError, match="could not run the engine: enqueue failed"):
        engines_search()(source(4), SearchOptions(beam=1))


@pytest.mark.gpu
@pytest.mark.parametrize(("beam", "len_penalty"), [(1, 1.0), (4, 0.6)])
def test_contexts_are_captured_in_cuda_graphs(trt, beam, len_penalty):
    """The mock's engines put PyTorch's kernels on the given stream; the CUDA graphs are real."""
    model = copy.deepcopy(MODEL).cuda()
    enqueued = []

    def enqueue(context, stream):
        enqueued.append(stream)
        compute(trt, context, model, on_gpu)

    trt.enqueue = enqueue
    build()
    engines = EngineHalves(STEP, torch.device("cuda")).search(graphed_search.CudaCapture())
    plain = IncrementalDecoder.of(MODEL)
    options = SearchOptions(beam=beam, len_penalty=len_penalty, max_len_b=20)
    for tokens in (source(5), source(9, 4, 17), source(5, seed=1), source(9, 4, 17, seed=2)):
        assert_same(engines(tokens.cuda(), options), search(plain, tokens, options))
    # each context warms up and is captured; all later runs are replays
    assert len(enqueued) == (capture.WARM_UPS + 1) * len(trt.contexts)
    assert 0 not in enqueued
