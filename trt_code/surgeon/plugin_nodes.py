"""The last step: prepares plugin nodes for TensorRT's parser, and removes model-local functions."""

import onnx_ir as ir

from onnx_export.symbols import DOMAIN, OPERATORS
from onnx_export.symbols.schema import NAMING
from trt_code.surgeon.graph import Pass, nodes_of


def mark(model: ir.Model) -> int:
    """Set the plugin's version and namespace on every node of the project's domain."""
    count = 0
    for node in nodes_of(model, *OPERATORS):
        if node.domain == DOMAIN:
            for name, value in NAMING.items():
                node.attributes[name] = ir.AttrString(name, value)
            count += 1
    return count


def strip_functions(model: ir.Model) -> int:
    """Remove model-local functions, which the parser would use instead of the plugins of the same name."""
    count = len(model.functions)
    model.functions.clear()
    return count


PASSES = [
    Pass("plugin-nodes", "plugin version and namespace on the project's nodes", mark),
    Pass("functions", "model-local functions stripped", strip_functions),
]
