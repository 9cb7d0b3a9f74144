"""The last step: plugin nodes as TensorRT's parser wants them, and no functions beside them."""

import onnx_ir as ir

from trt_code.surgeon.graph import DOMAIN, PLUGINS, Pass, nodes_of


def mark(model: ir.Model) -> int:
    """Name version and namespace of the plugin on every node of the project's domain."""
    count = 0
    for node in nodes_of(model, *PLUGINS):
        if node.domain == DOMAIN:
            node.attributes["plugin_version"] = ir.AttrString("plugin_version", "1")
            node.attributes["plugin_namespace"] = ir.AttrString("plugin_namespace", "")
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
