"""What TensorRT wants of a graph with QuantizeLinear and DequantizeLinear, beyond what the export writes.

The export puts the pair on both inputs of every product, the weights' as INT8 numbers. What is left is
the other input of a sum behind a product: a residual that is also quantised for the next product can be
read as INT8 there too, which saves a trip of the FP16 tensor where TensorRT fuses the sum into the
product. It rounds the residual, which the network was not trained for. See doc/int8.md.
"""

import onnx_ir as ir

from trt_code.surgeon.graph import Pass, made_by, nodes_of


def quantize_residuals(model: ir.Model) -> int:
    """Let sums of a product and a tensor read the tensor as the products beside them do.

    A tensor that no product reads in INT8 stays as it is. Returns how many sums were changed.
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
    model.graph.sort()  # the pair may stand further down
    return changed


def _is_product(value: ir.Value) -> bool:
    """Whether ``value`` is a product with a weight, its bias added or not."""
    add = made_by(value, "Add")
    products = [made_by(item, "MatMul", "Gemm") for item in (add.inputs if add else [value])]
    return any(products)


def _dequantized(value: ir.Value) -> ir.Value | None:
    """What a pair of QuantizeLinear and DequantizeLinear makes of ``value``, if it stands anywhere."""
    for quantize, index in value.uses():
        if quantize.op_type == "QuantizeLinear" and index == 0:
            for reader, _ in quantize.outputs[0].uses():
                if reader.op_type == "DequantizeLinear":
                    return reader.outputs[0]
    return None


PASSES = [
    Pass("int8_residuals", "residuals read in INT8 (--quantize-residuals)", quantize_residuals)
]
