"""Measures the magnitudes of a graph's values in ONNX Runtime on random sentences."""

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnx_export.onnx_file import runnable
from onnx_export.reference import with_reference_functions
from onnx_export.session import WEIGHTS_FOLDER, session_options
from train_model.data.dictionary import EOS
from train_model.models.canvas import canvas_width, initial_canvas
from train_model.models.refinement import Refinement
from train_model.models.signatures import NEXT, OUTPUT_SCORES, OUTPUT_TOKENS, SRC_TOKENS, STATE
from trt_code.surgeon.graph import constant, dim

_BATCHES = ((4, 1), (8, 9), (3, 60))  # sentences x tokens
_BEAM, _STEPS = 2, 24  # of a search
_FLOAT = onnx.TensorProto.FLOAT
# Masks write numbers of about this size, which do not show the range of a tensor.
MASKED = 1e30


def measure(model: ir.Model, seed: int = 0) -> dict[str, float]:
    """Return the largest magnitude of every FP32 value of the main graph, by the value's name.

    Values that a mask wrote (1e30 and above, infinity where a Where writes it) are left out; an infinity
    that the FP32 graph computed stays.

    Args:
        model: a graph in FP32 that maps int64 tokens [batch, length] to its outputs.
        seed: of the random tokens.
    """
    probe = _Probe(model)
    (tokens,) = model.graph.inputs
    for source in _sources(model, seed):
        probe.run({tokens.name: source})
    return probe.largest


def measure_step(encoder: ir.Model, step: ir.Model, seed: int = 0) -> dict[str, float]:
    """Measure one step of a decoder like ``measure``, over the steps of a search on random sentences.

    Hypotheses continue with their best word or a random word, from a random beam: a search meets likely
    and unlikely prefixes.

    Args:
        encoder: makes the step's inputs that begin with ``source.``; in FP32.
        step: see ``onnx_export.export_ar.step_to_onnx``; in FP32.
        seed: of the random tokens.
    """
    probe = _Probe(step)
    encode = _session(encoder)
    generator = np.random.default_rng(seed)
    for source in _sources(encoder, seed):
        batch = len(source)
        sizes = {"rows": batch * _BEAM, "room": _STEPS}
        feeds = dict(
            zip(_names(encode.get_outputs()), encode.run(None, {SRC_TOKENS: source}), strict=True)
        )
        for value in step.graph.inputs:
            if value.name.startswith(STATE):
                shape = [sizes.get(str(size), size) for size in value.shape]
                feeds[value.name] = np.zeros(shape, np.float32)
        feeds["tokens"] = np.full((batch, _BEAM), EOS)
        for position in range(_STEPS):
            feeds["parents"] = generator.integers(0, _BEAM, (batch, _BEAM))
            feeds["position"] = np.array(position)
            results = probe.run(feeds)
            feeds |= {
                name.removeprefix(NEXT): array
                for name, array in results.items()
                if name.startswith(NEXT)
            }
            logprobs = results["logprobs"]
            words = generator.integers(0, logprobs.shape[-1], (batch, _BEAM))
            sure = generator.random((batch, _BEAM)) < 0.5
            feeds["tokens"] = np.where(sure, logprobs.argmax(-1), words)
    return probe.largest


def measure_decoder(encoder: ir.Model, decoder: ir.Model, seed: int = 0) -> dict[str, float]:
    """Measure the decoder of two files like ``measure``, on random sentences, in all passes.

    Args:
        encoder, decoder: see ``onnx_export.export_split``; in FP32.
        seed: of the random tokens.
    """
    probe = _Probe(decoder)
    encode = _session(encoder)
    longest = int(decoder.metadata_props["max_target_positions"])
    refinement = Refinement.in_metadata(decoder.metadata_props)
    for source in _sources(encoder, seed):
        encoded, lengths = encode.run(["encoded", "lengths"], {SRC_TOKENS: source})
        feeds = {SRC_TOKENS: source, "encoded": encoded}

        def decode(canvas: np.ndarray, feeds=feeds) -> tuple[np.ndarray, np.ndarray]:
            outputs = probe.run(feeds | {"canvas": canvas})
            return outputs[OUTPUT_TOKENS], outputs[OUTPUT_SCORES]

        refinement.run(decode, initial_canvas(lengths, canvas_width(source.shape[1], longest)))
    return probe.largest


class _Probe:
    """A session that also measures magnitudes; ``largest`` holds the maximum over all runs."""

    def __init__(self, model: ir.Model) -> None:
        names = [
            value.name
            for node in model.graph
            for value in node.outputs
            if value.dtype == ir.DataType.FLOAT and value.name
        ]
        self.largest = dict.fromkeys(names, 0.0)
        self._outputs = [value.name for value in model.graph.outputs]
        self._session = _session(model, names)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph; return its own outputs by name."""
        probes = [f"{name}.largest" for name in self.largest]
        values = self._session.run([*self._outputs, *probes], feeds)
        count = len(self._outputs)
        for name, value in zip(self.largest, values[count:], strict=True):
            size = float(value) if math.isfinite(value) else math.inf
            self.largest[name] = max(self.largest[name], size)
        return dict(zip(self._outputs, values[:count], strict=True))


def _session(model: ir.Model, probed: Sequence[str] = ()) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime, with an additional output for each value in ``probed``."""
    with runnable(model) as (message, folder):
        proto = with_reference_functions(message)
        _add_probes(proto, probed, _masked_with_infinity(model))
        options = session_options()
        if folder is not None:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
        return onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _names(values: list) -> list[str]:
    return [value.name for value in values]


def _sources(model: ir.Model, seed: int) -> Iterator[np.ndarray]:
    """Batches of random sentences for a graph of one input."""
    (tokens,) = model.graph.inputs
    generator = np.random.default_rng(seed)
    vocab, longest = _limits(model)
    fixed = [size if isinstance(size, int) else None for size in tokens.shape]
    for batch, length in _BATCHES:
        shape = (fixed[0] or batch, fixed[1] or min(length, longest))
        yield _sentences(generator, *shape, vocab)


def _add_probes(proto: onnx.ModelProto, names: Sequence[str], masked: Collection[str]) -> None:
    """Add an output for each value: its largest magnitude below that of masks."""
    graph = proto.graph
    graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array(MASKED, np.float32), "range.masked"),
            onnx.numpy_helper.from_array(np.array(0, np.float32), "range.zero"),
            onnx.numpy_helper.from_array(np.array(np.inf, np.float32), "range.infinity"),
        ]
    )
    make = onnx.helper.make_node
    for name in names:
        at = f"{name}.range"
        graph.node.extend(
            [
                make("Abs", [name], [f"{at}.abs"]),
                make("GreaterOrEqual", [f"{at}.abs", "range.masked"], [f"{at}.big"]),
                make("Less", [f"{at}.abs", "range.infinity"], [f"{at}.finite"]),
                make("And", [f"{at}.big", f"{at}.finite"], [f"{at}.mask"]),
                make(
                    "Where",
                    [f"{at}.big" if name in masked else f"{at}.mask", "range.zero", f"{at}.abs"],
                    [f"{at}.rest"],
                ),
                make("ReduceMax", [f"{at}.rest"], [f"{name}.largest"], keepdims=0),
            ]
        )
    graph.output.extend(
        onnx.helper.make_tensor_value_info(f"{name}.largest", _FLOAT, []) for name in names
    )
    return proto


def _masked_with_infinity(model: ir.Model) -> set[str]:
    """Names of values into which a Where writes an infinite constant, and of other views of them."""
    masked: set[str] = set()
    for node in model.graph:
        constants = [array for value in node.inputs if (array := constant(value)) is not None]
        writes = node.op_type == "Where" and any(np.isinf(array).any() for array in constants)
        views = node.op_type in ("Reshape", "Transpose", "Unsqueeze", "Squeeze")
        if writes or (views and node.inputs[0].name in masked):
            masked.add(node.outputs[0].name)
    return masked


def _limits(model: ir.Model) -> tuple[int, int]:
    """Return the vocabulary size, from the tables that the tokens index, and the greatest length."""
    (tokens,) = model.graph.inputs
    tables = [
        node.inputs[0]
        for node, index in tokens.uses()
        if node.op_type == "Gather" and index == 1 and constant(node.inputs[0]) is not None
    ]
    vocab = min((dim(table, 0) for table in tables), default=5)
    return vocab, int(model.metadata_props.get("max_source_positions", 60))


def _sentences(generator: np.random.Generator, batch: int, length: int, vocab: int) -> np.ndarray:
    """Return rows of random words between bos and eos, padded to the length of the first row."""
    source = generator.integers(min(4, vocab - 1), vocab, (batch, length))
    sizes = generator.integers(1, length + 1, batch)
    sizes[0] = length
    source[:, 0] = 0
    source[np.arange(batch), sizes - 1] = 2
    source[np.arange(length) >= sizes[:, None]] = 1
    return source.astype(np.int64)
