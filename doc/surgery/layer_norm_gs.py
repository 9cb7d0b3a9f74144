"""LayerNormalization to the plugin LiteLayerNorm, written with NVIDIA's onnx-graphsurgeon.

    python doc/surgery/layer_norm_gs.py build/demo/model.onnx build/demo/model.gs.onnx

This is the pass ``layer-norm`` of ``trt_code/surgeon/layer_norm.py`` for readers who know graphsurgeon.
"""

import sys

import numpy as np
import onnx
import onnx_graphsurgeon as gs


def to_plugin(graph: gs.Graph) -> int:
    """Replace every LayerNormalization over the last axis; return how many there were."""
    norms = [
        node
        for node in graph.nodes
        if node.op == "LayerNormalization"
        and node.attrs.get("axis", -1) == -1
        and isinstance(node.inputs[1], gs.Constant)
    ]
    for norm in norms:
        x, scale, *shift = norm.inputs
        if not shift:
            zeros = np.zeros(scale.values.size, np.float32)
            shift = [gs.Constant(f"{norm.name}.shift", zeros)]
        graph.layer(
            op="LiteLayerNorm",
            domain="lite",
            name=norm.name,
            inputs=[x, scale, *shift],
            outputs=[norm.outputs[0]],
            attrs={
                "eps": float(norm.attrs.get("epsilon", 1e-5)),
                # The parser finds the plugin by the node's type and these two strings.
                "plugin_version": "1",
                "plugin_namespace": "",
            },
        )
        norm.outputs.clear()  # cleanup() drops the old node, which nothing reads any more
    graph.cleanup().toposort()
    return len(norms)


def main(arguments: list[str]) -> int:
    """Read the first file, write the second."""
    source, target = arguments
    graph = gs.import_onnx(onnx.load(source))
    count = to_plugin(graph)
    model = gs.export_onnx(graph)
    if not any(entry.domain == "lite" for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("lite", 1))
    onnx.save(model, target)
    print(f"{count} LayerNormalization to LiteLayerNorm: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
