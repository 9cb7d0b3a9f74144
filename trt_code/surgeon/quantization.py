"""Quantizes residuals for TensorRT, in addition to the Q/DQ pairs that the export writes.

The export puts QuantizeLinear and DequantizeLinear on both inputs of every product, with weights in INT8.
This leaves the other input of a sum after a product. If this residual is also quantised for the next product,
the sum can read it as INT8. This saves a read of the FP16 tensor if TensorRT fuses the sum into the product.
It rounds the residual, for which the network was not trained. See doc/int8.md.
"""

import onnx_ir as ir

from trt_code.surgeon.graph import Pass, made_by, nodes_of


def quantize_residuals(model: ir.Model) -> int:
    """Let sums of a product and a tensor read the tensor in INT8 if a product also does so.

    Returns the number of changed sums.
    """
    changed = 0
    for node in nodes_of(model, "Add"):
        for index in (0, 1):
            if not _is_product(node.inputs[1 - index]):
                continue
            rounded = _dequantized(node.inputs[index])
            if rounded is not None:
                node.replace_input_with(index, rounded)
                changed += 1
                break
    model.graph.sort()  # the pair may come later in the graph
    return changed


def _is_product(value: ir.Value) -> bool:
    """Whether ``value`` is a product with a weight, with or without a bias."""
    add = made_by(value, "Add")
    products = [made_by(item, "MatMul", "Gemm") for item in (add.inputs if add else [value])]
    return any(products)


def _dequantized(value: ir.Value) -> ir.Value | None:
    """Return the output of a QuantizeLinear and DequantizeLinear pair on ``value``, or None."""
    for quantize, index in value.uses():
        if quantize.op_type == "QuantizeLinear" and index == 0:
            for reader, _ in quantize.outputs[0].uses():
                if reader.op_type == "DequantizeLinear":
                    return reader.outputs[0]
    return None


PASSES = [
    Pass("int8_residuals", "residuals read in INT8 (--quantize-residuals)", quantize_residuals)
]
