"""Brings files of older exporters to the form that the passes know: opset, operator names, types.

The seed of this project exported with PyTorch's TorchScript exporter at opset 11: the convolution is a
node ``dynamicconv_forward`` of the domain ``DynamicconvSpace``.
"""

import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass

from onnx_export.symbols import DOMAIN, EXPORTED, FUNCTIONS, VERSION
from trt_code.surgeon.graph import (
    Pass,
    attribute,
    cast,
    made_by,
    new_node,
    on_each,
    on_last_axis,
    replace,
    sole_user,
)

OPSET = 20
_OLD_NAMES = {"dynamicconv_forward": "LiteDynamicConv"}


def upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` in the current opset with the project's operator names.

    A model that has this form already is returned unchanged.
    """
    old = [node for node in model.graph.node if node.op_type in _OLD_NAMES]
    opset = next((item.version for item in model.opset_import if item.domain == ""), OPSET)
    if not old and opset >= OPSET:
        return model
    for node in old:
        node.op_type, node.domain = _OLD_NAMES[node.op_type], DOMAIN
    used = {node.domain for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain in used and item.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend([*kept, onnx.helper.make_opsetid(DOMAIN, VERSION)])
    if opset < OPSET:
        model = version_converter.convert_version(model, OPSET)
    present = {function.name for function in model.functions}
    model.functions.extend(FUNCTIONS[name] for name in EXPORTED if name not in present)
    model.ir_version = max(model.ir_version, 10)
    return model


def complete(model: ir.Model) -> None:
    """Add missing names, shapes and types, and turn Constant nodes into initializers, in place."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        node.name = node.name or node.outputs[0].name
    if any(value.dtype is None for node in model.graph for value in node.outputs):
        ShapeInferencePass(data_prop=True)(model)


@on_each("ScatterND", "ScatterElements")
def cast_scatter_updates(model: ir.Model, node: ir.Node) -> bool:
    """Cast the updates of each scatter to the type of its data."""
    data, updates = node.inputs[0], node.inputs[2]
    if None in (data.dtype, updates.dtype) or data.dtype == updates.dtype:
        return False
    same = cast(model, node, updates, data.dtype, f"{updates.name}.as_data")
    node.replace_input_with(2, same)
    return True


@on_each("Equal")
def equal_of_booleans(model: ir.Model, node: ir.Node) -> bool:
    """Replace ``Equal`` of booleans, which TensorRT lacks, by ``Not(Xor)``."""
    if node.inputs[0].dtype != ir.DataType.BOOL:
        return False
    shape = node.outputs[0].shape
    differ = new_node(
        model,
        node,
        "Xor",
        [*node.inputs],
        name=f"{node.name}.differ",
        outputs=[(ir.DataType.BOOL, shape)],
    )
    same = new_node(
        model,
        node,
        "Not",
        [differ.outputs[0]],
        name=f"{node.name}.same",
        outputs=[(ir.DataType.BOOL, shape)],
    )
    replace(model, node.outputs[0], same.outputs[0])
    model.graph.remove(node, safe=True)
    return True


@on_each("Softmax")
def unflatten_softmax(model: ir.Model, node: ir.Node) -> bool:
    """Remove the Flatten and Reshape that the opset conversion put around a softmax over the last axis."""
    flatten = made_by(node.inputs[0], "Flatten")
    reshape = sole_user(node.outputs[0], "Reshape")
    if flatten is None or reshape is None or not on_last_axis(node, attribute(node, "axis", -1)):
        return False
    x, size = flatten.inputs[0], made_by(reshape.inputs[1], "Shape")
    if not on_last_axis(flatten, attribute(flatten, "axis", 1)):
        return False
    if size is None or size.inputs[0] is not x or size.attributes:
        return False
    softmax = new_node(
        model,
        node,
        "Softmax",
        [x],
        name=f"{node.name}.whole",
        attributes={"axis": -1},
        outputs=[(x.dtype, x.shape)],
    )
    replace(model, reshape.outputs[0], softmax.outputs[0])
    return True


PASSES = [
    Pass("flat-softmax", "softmax between Flatten and Reshape alone", unflatten_softmax),
    Pass(
        "scatter-types", "updates of a scatter cast to the type of its data", cast_scatter_updates
    ),
    Pass("boolean-equal", "Equal of booleans to Not(Xor)", equal_of_booleans),
]
