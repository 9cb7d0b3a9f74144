"""How large the values of a graph get, measured in ONNX Runtime on random sentences."""

import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnx_export.reference import with_reference_functions
from trt_code.surgeon.graph import constant, dim

_BATCHES = ((4, 1), (8, 9), (3, 60))  # sentences x tokens
_FLOAT = onnx.TensorProto.FLOAT
# Masks write numbers of about this size, which are no measure of what a tensor holds.
MASKED = 1e30


def measure(model: ir.Model, seed: int = 0) -> dict[str, float]:
    """The largest magnitude of every FP32 value of the main graph, by the value's name.

    Values that a mask wrote (1e30 and above, infinity where a Where writes it) are left out; an infinity
    that the FP32 graph computed stays.

    Args:
        model: a graph in FP32 that maps int64 tokens [batch, length] to its outputs.
        seed: of the random tokens.
    """
    names = [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT and value.name
    ]
    session = onnxruntime.InferenceSession(
        _probed(model, names).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (tokens,) = session.get_inputs()
    generator = np.random.default_rng(seed)
    vocab, longest = _limits(model)
    fixed = [size if isinstance(size, int) else None for size in tokens.shape]
    largest = dict.fromkeys(names, 0.0)
    for batch, length in _BATCHES:
        shape = (fixed[0] or batch, fixed[1] or min(length, longest))
        source = _sentences(generator, *shape, vocab)
        values = session.run([f"{name}.largest" for name in names], {tokens.name: source})
        for name, value in zip(names, values, strict=True):
            largest[name] = max(largest[name], float(value)) if math.isfinite(value) else math.inf
    return largest


def _probed(model: ir.Model, names: list[str]) -> onnx.ModelProto:
    """The graph with one output a value: its largest magnitude below that of masks."""
    proto = with_reference_functions(ir.serde.serialize_model(model))
    graph = proto.graph
    masked = _masked_with_infinity(model)
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
    del graph.output[:]
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
    """The vocabulary, from the tables that the tokens index, and the greatest length."""
    (tokens,) = model.graph.inputs
    tables = [
        node.inputs[0]
        for node, index in tokens.uses()
        if node.op_type == "Gather" and index == 1 and constant(node.inputs[0]) is not None
    ]
    vocab = min((dim(table, 0) for table in tables), default=5)
    return vocab, int(model.metadata_props.get("max_source_positions", 60))


def _sentences(generator: np.random.Generator, batch: int, length: int, vocab: int) -> np.ndarray:
    """Rows of random words between the two ends, padded to the first one's length."""
    source = generator.integers(min(4, vocab - 1), vocab, (batch, length))
    sizes = generator.integers(1, length + 1, batch)
    sizes[0] = length
    source[:, 0] = 0
    source[np.arange(batch), sizes - 1] = 2
    source[np.arange(length) >= sizes[:, None]] = 1
    return source.astype(np.int64)
