"""Lists the precision in which ONNX Runtime or an engine really computes each product with a weight.

    python -m trt_code.measure.layer_precision build/demo/model.qdq.onnx
    python -m trt_code.measure.layer_precision build/demo/model.int8.layers.json

A graph says which products may run in INT8; the runtime decides when it chooses its kernels. For an
exported graph, this program opens a session and reads the graph that ONNX Runtime optimised. For a layer
report of ``trt_code.build_engine --layer-report``, it reads the types of each GEMM's inputs.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_export.onnx_file import load_onnx
from train_model.cli import Parser, UserError, first_line, path_argument, run
from train_model.documents import read_json, used

_ORT_FLOAT = frozenset(("FusedGemm", "FusedMatMul", "Gemm", "MatMul"))
_ORT_INT8 = frozenset(
    ("DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul")
)
# The inspector's names of types: "Half" or "Row major linear FP16", "Int8" or "... Int8 format".
_ENGINE_TYPES = {
    "INT8": r"\bint8\b",
    "FP8": r"\bfp8\b|\bfp8e4m3\b",
    "FP16": r"\bhalf\b|\bfp16\b",
    "BF16": r"\bbf16\b|\bbfloat16\b",
    "FP32": r"\bfloat\b|\bfp32\b",
}
_ENGINE_GEMM = re.compile(r"gemm|matmul|matrixmultiply|matrix_multiply", re.IGNORECASE)


@dataclass(frozen=True)
class Product:
    """A product: its place in the network, the kernel that computes it, and its precision."""

    name: str
    kernel: str
    precision: str


def products(path: Path) -> list[Product]:
    """Return the products of an exported ``.onnx`` file or of a layer report ``.json``.

    Raises:
        UserError: the file is missing or is neither of these.
    """
    return of_engine(path) if path.suffix == ".json" else of_session(path)


def of_session(path: Path) -> list[Product]:
    """Return the products with a weight in the graph that ONNX Runtime runs on a CPU for ``path``.

    Raises:
        UserError: the graph is missing, or ONNX Runtime refuses it.
    """
    import onnxruntime as ort

    from onnx_export.session import session_options

    load_onnx(path)  # for its messages
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types differ between versions
            reason = str(error).splitlines()[0]
            raise UserError(f"ONNX Runtime refuses {path}: {reason}") from error
        graph = load_onnx(options.optimized_model_filepath).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [
        Product(node.name, node.op_type, "INT8" if node.op_type in _ORT_INT8 else "FP32")
        for node in graph.node
        if node.op_type in _ORT_INT8 | _ORT_FLOAT and weights.intersection(node.input[:2])
    ]


def of_engine(path: Path) -> list[Product]:
    """Return the GEMMs in a layer report; the precision of a fused layer is that of its inputs.

    Raises:
        UserError: the file is not a layer report, or has no details.
    """
    remedy = "make it with `make engine-int8`"
    content = read_json(path, remedy)
    with used(path, "a layer report of trt_code.build_engine", remedy):
        layers = list(content["Layers"])
        if layers and all(isinstance(layer, str) for layer in layers):
            raise UserError(f"{path} has names of layers alone; build again with --layer-report")
        return [
            Product(_onnx_names(layer), str(layer.get("TacticName", "")), _engine_precision(layer))
            for layer in layers
            if _ENGINE_GEMM.search(f"{layer.get('LayerType', '')} {layer.get('TacticName', '')}")
        ]


def _onnx_names(layer: dict[str, Any]) -> str:
    """Return the graph nodes that a layer computes, as far as the report lists them."""
    nodes = re.findall(r"\[ONNX Layer: ([^\]]*)\]", layer.get("Metadata") or "")
    return " + ".join(nodes) or layer.get("Name", "?")


def _engine_precision(layer: dict[str, Any]) -> str:
    """Return the lowest precision among a layer's inputs, which is the precision of its products."""
    texts = [tensor.get("Format/Datatype", "") for tensor in layer.get("Inputs", [])]
    for precision, pattern in _ENGINE_TYPES.items():
        if any(re.search(pattern, text, re.IGNORECASE) for text in texts):
            return precision
    return "?"


def summary(products: list[Product]) -> str:
    """Return one line with the number of products per precision."""
    counts = Counter(product.precision for product in products)
    return "products: " + ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _lines(products: list[Product]) -> Iterator[str]:
    for product in products:
        yield f"{product.precision:<5} {product.kernel:<24} {product.name}"


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "file", type=path_argument, help="an exported .onnx, or a layer report .json"
    )
    path = parser.parse_args(argv).file
    found = products(path)
    print("\n".join([*_lines(found), summary(found)]))


if __name__ == "__main__":
    run(main)
