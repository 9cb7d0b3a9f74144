"""The TensorRT runner over two engines: the canvas ends with the longest translation of the batch.

The encoder's engine ends with the predicted lengths. The host reads them, makes a canvas as wide as the
longest, rounded up so that few shapes occur, and the decoder's engine fills it. Both engines share
fixed memory for their common inputs and for the encoder's results, so nothing is copied between them. The
decoder of an iterative network runs once per pass, on canvases that the host makes. As for
``trt_runner``, execution is tested only against a mock (tests/engine/test_trt_split_runner.py).
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnx_export.paths import half_path
from train_model.cli import UserError
from train_model.models.canvas import canvas_width, initial_canvas
from train_model.models.hypotheses import Found
from train_model.models.refinement import Refinement
from train_model.models.signatures import SPLIT, SRC_TOKENS
from trt_code.engine.gpu import DeviceBuffer
from trt_code.engine.plan import Engine, RuntimeOptions, open_halves
from trt_code.engine.profiles import Range, Shape, best_profile
from trt_code.runners.base import WARM_UP, Output, Runner, widen
from trt_code.runners.buckets import length_bucket
from trt_code.runners.one_pass.several_lengths import translate_lengths
from trt_code.runners.one_pass.trt_runner import (
    OUTPUTS,
    ReadyShapes,
    ShapeRun,
    Stream,
    check_plan,
    find_plan,
    layer_report,
    plans_on,
    source_shape,
)
from trt_code.runners.spec import GRAPH_PRECISIONS, Request, RunnerSpec
from trt_code.runners.turns import Turns


def create(request: Request, plain: bool) -> "TrtSplitRunner":
    """Make the runner of ``<build_dir>/<model>/model.<precision>.encoder.plan`` and ``.decoder.plan``.

    The decoder's plan of an iterative network is ``model.<precision>.plan``.

    Args:
        plain: take the plans without plugins (``find_plan``).

    Raises:
        Unavailable: TensorRT or a GPU is missing, or a plan is missing, stale, foreign or damaged.
    """
    one_pass = request.model.family == "one-pass"
    plan = request.folder / f"model.{request.precision}.plan"
    path = find_plan(plan, plain, "decoder" if one_pass else None)
    decoder = half_path(path, "decoder") if one_pass else path
    plans = {"encoder": half_path(path, "encoder"), "decoder": decoder}
    with plans_on(request.device, decoder, instead="ort-split" if one_pass else "ort"):
        options = RuntimeOptions(request.kernels, request.cuda_graph)
        runner = TrtSplitRunner(plans, request, options)
    target = "engine-split" if one_pass else f"engine-{request.precision}"
    check_plan(decoder, request, f"make {target}")
    runner.int8_report = layer_report(decoder)
    return runner


class TrtSplitRunner(Runner):
    """Runs the two plans in turn on one stream. See ``Runner`` for shapes and types.

    Threads take turns, as with ``TrtRunner``.

    The decoder's engine limits the width of the canvas (``--axis canvas=...`` of its build). Longer
    translations end there, as they do at the network's last position.

    Raises:
        UserError: in the cases in which ``create`` raises ``Unavailable``.
    """

    def __init__(
        self, paths: Mapping[str, Path], request: Request, options: RuntimeOptions | None = None
    ):
        super().__init__(request.name, request.precision, "cuda")
        plans = dict(zip(paths, open_halves(*paths.values()), strict=True))
        metadata = plans["decoder"].metadata()
        if request.model.family == "iterative" and not metadata:
            raise UserError(
                f"the graph of {paths['decoder']} is missing, which says how often its decoder runs; make it "
                f"again with `make patch PRECISION={request.precision}`"
            )
        self._refinement = Refinement.in_metadata(metadata, request.max_iter)
        self._profiles = {half: plan.sidecar.profiles for half, plan in plans.items()}
        self._widest = plans["decoder"].sidecar.ranges.get("canvas", Range(1, 1, 1)).max
        largest = [profile.max for profiles in self._profiles.values() for profile in profiles]
        # the shapes for which both halves have a profile
        self.max_batch, self.max_source = (
            min(max(getattr(p.max, axis) for p in ps) for ps in self._profiles.values())
            for axis in Shape._fields
        )
        self._stream = Stream()
        self._engines = {half: Engine(plan, options) for half, plan in plans.items()}
        for half, engine in self._engines.items():
            _check_tensors(engine, half)
        scratch = max(engine.device_memory for engine in self._engines.values())
        self._scratch = DeviceBuffer(scratch)
        batch, length = (max(getattr(p, axis) for p in largest) for axis in Shape._fields)
        self._shared = {name: self._buffer(name, batch, length) for name in (SRC_TOKENS, "encoded")}
        self._ready = ReadyShapes()
        self._turns = Turns()

    def run(self, src_tokens: np.ndarray) -> Output:
        shape = source_shape(src_tokens)
        with self._turns:
            encoder = self._encoder(shape)
            encoder.fill({SRC_TOKENS: src_tokens})
            tokens, scores = self._decode(shape, _lengths(encoder))
        return self._output(shape, tokens, scores)

    def _several(self, src_tokens: np.ndarray, count: int) -> Found:
        shape = source_shape(src_tokens)
        with self._turns:
            encoder = self._encoder(shape)
            encoder.fill({SRC_TOKENS: src_tokens})
            return translate_lengths(
                _lengths(encoder),
                count,
                canvas_width(shape.length, self._widest),
                lambda lengths: self._output(shape, *self._decode(shape, lengths)),
            )

    def _output(self, shape: Shape, tokens: np.ndarray, scores: np.ndarray) -> Output:
        """Return the decoder's results, as wide as those of the single engine."""
        width = canvas_width(shape.length, self._widest)
        return Output(
            widen(tokens.astype(np.int64), width), widen(scores.astype(np.float32), width, fill=0)
        )

    def _decode(self, shape: Shape, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode with target ``lengths`` [B] behind a finished encoder; return tokens and scores."""
        limit = canvas_width(shape.length, self._widest)
        width = length_bucket(min(int(lengths.max()), limit), limit)
        decoder = self._decoder(shape, width)

        def decode(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            tokens, scores = decoder.run({"canvas": canvas}, OUTPUTS)
            return tokens, scores

        return self._refinement.run(decode, initial_canvas(lengths, width))

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        """Run both halves; the host waits for lengths and results, and sends each canvas."""
        shape = source_shape(src_tokens)
        with self._turns:
            encoder = self._encoder(shape)
            encoder.fill({SRC_TOKENS: src_tokens})

            def both() -> None:
                self._decode(shape, _lengths(encoder))

            for _ in range(WARM_UP):
                both()
            return self._stream.device_ms(both, repeats)

    def peak_memory(self) -> int:
        """See ``TrtRunner.peak_memory``."""
        return self._stream.most_memory

    def close(self) -> None:
        self._ready.close()
        for buffer in (self._scratch, *self._shared.values()):
            buffer.close()
        self._stream.close()
        for engine in self._engines.values():
            engine.close()

    def _encoder(self, shape: Shape) -> ShapeRun:
        return self._shape_run("encoder", shape, {SRC_TOKENS: shape})

    def _decoder(self, shape: Shape, width: int) -> ShapeRun:
        channels = self._engines["decoder"].shape("encoded")[-1]
        shapes = {
            SRC_TOKENS: shape,
            "encoded": (*shape, channels),
            "canvas": (shape.batch, width),
        }
        return self._shape_run("decoder", shape, shapes)

    def _shape_run(self, half: str, shape: Shape, shapes: dict[str, tuple[int, ...]]) -> ShapeRun:
        def make() -> ShapeRun:
            made = ShapeRun(
                self._engines[half],
                best_profile(self._profiles[half], shape),
                shapes,
                SPLIT[half].outputs,
                self._scratch,
                self._stream.handle,
                self._shared,
            )
            self._stream.look_at_memory()
            return made

        return self._ready.get((half, *shapes.values()), make)

    def _buffer(self, name: str, batch: int, length: int) -> DeviceBuffer:
        """Allocate memory for the largest such tensor of either engine."""
        sizes = []
        for engine in self._engines.values():
            _, _, *channels = engine.shape(name)
            sizes.append(batch * length * math.prod(channels) * engine.dtype(name).itemsize)
        if len(set(sizes)) > 1:
            raise UserError(
                f"the two engines have not the same {name}; build both again (make engine-split)"
            )
        return DeviceBuffer(sizes[0])


def _lengths(encoder: ShapeRun) -> np.ndarray:
    """Run the encoder on the tokens in device memory, and return the predicted lengths [B]."""
    encoder.launch()
    (lengths,) = encoder.fetch(["lengths"])
    return lengths


def _check_tensors(engine: Engine, half: str) -> None:
    names = {*engine.inputs, *engine.outputs}
    expected = {*SPLIT[half].inputs, *SPLIT[half].outputs}
    if names != expected:
        raise UserError(
            f"{engine.plan.path} has the tensors {', '.join(sorted(names))}; the {half}'s are "
            f"{', '.join(sorted(expected))}"
        )


RUNNERS = tuple(
    RunnerSpec(
        name,
        create,
        {"cuda": GRAPH_PRECISIONS},
        families=(family,),
        reads="engine",
        cuts_canvas=True,
        n_best=True,
        options={"plain": name.endswith("-plain")},
    )
    for name, family in (
        ("trt-split", "one-pass"),
        ("trt-split-plain", "one-pass"),
        ("trt", "iterative"),
        ("trt-plain", "iterative"),
    )
)
