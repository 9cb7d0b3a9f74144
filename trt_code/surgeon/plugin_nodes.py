"""The last step: plugin nodes as TensorRT's parser wants them, and no functions beside them."""

import onnx_ir as ir

from onnx_export.symbols import DOMAIN, OPERATORS
from onnx_export.symbols.schema import NAMING
from trt_code.surgeon.graph import Pass, nodes_of


def mark(model: ir.Model) -> int:
    """Name version and namespace of the plugin on every node of the project's domain."""
    count = 0
    for node in nodes_of(model, *OPERATORS):
        if node.domain == DOMAIN:
            for name, value in NAMING.items():
                node.attributes[name] = ir.AttrString(name, value)
            count += 1
    return count


def strip_functions(model: ir.Model) -> int:
    """Drop model-local functions, which the parser would take instead of the plugin of that name."""
    count = len(model.functions)
    model.functions.clear()
    return count


PASSES = [
    Pass("plugin-nodes", "plugin version and namespace on the project's nodes", mark),
    Pass("functions", "model-local functions stripped", strip_functions),
]
