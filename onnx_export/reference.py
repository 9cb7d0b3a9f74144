"""Makes a file that the surgeon patched for TensorRT run in any ONNX runtime.

TensorRT gets plugin nodes and no functions. The functions that this module puts back compute the same as the
plugins, in the same precision. So the graph that TensorRT gets can be run and compared on any machine.
"""

import onnx

from onnx_export.rounding import rounded_in_float32
from onnx_export.symbols import DOMAIN, FUNCTIONS, OPERATORS, VERSION
from onnx_export.symbols.schema import node_attributes


def with_reference_functions(model: onnx.ModelProto, *, native: bool = False) -> onnx.ModelProto:
    """Return a copy of ``model`` with calls of model-local functions in place of plugin nodes.

    Args:
        model: a patched or an exported model.
        native: leave FP16 and BF16 to the runtime, for one that has their arithmetic (a GPU's). Without
            it they are computed in FP32 and rounded after every node, as a GPU rounds, which a runtime
            on a CPU would not do by itself (see ``onnx_export.rounding``).

    Raises:
        ValueError: a node of the project's domain is of no known operator, or no form of it fits.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.functions[:]
    called = {_to_call(node) for node in result.graph.node if node.domain == DOMAIN}
    for name in [*called]:
        called.update(_calls(name))
    result.functions.extend(FUNCTIONS[name] for name in sorted(called))
    if called and not any(entry.domain == DOMAIN for entry in result.opset_import):
        result.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    return result if native else rounded_in_float32(result)


def _to_call(node: onnx.NodeProto) -> str:
    """Turn a plugin node into a call of the function of its form, in place; return the function's name."""
    operator = OPERATORS.get(node.op_type)
    if operator is None:
        raise ValueError(f"node {node.name}: there is no operator {node.op_type}")
    attributes = dict(node_attributes(node))
    unknown = attributes.keys() - operator.schema.attributes.keys()
    if unknown:
        raise ValueError(f"node {node.name} ({node.op_type}): unknown attribute {min(unknown)}")
    try:
        name = operator.form(attributes).function(len(node.input)).name
    except ValueError as error:
        raise ValueError(f"node {node.name} ({node.op_type}): {error}") from error
    node.op_type = name
    declared = FUNCTIONS[name].attribute
    kept = [item for item in node.attribute if item.name in declared]
    del node.attribute[:]
    node.attribute.extend(kept)
    return name


def _calls(name: str) -> set[str]:
    """The functions that the function ``name`` calls, however deep."""
    direct = {node.op_type for node in FUNCTIONS[name].node if node.domain == DOMAIN}
    return direct.union(*map(_calls, direct))
