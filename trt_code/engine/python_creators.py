"""The project's plugins as Python classes, which are enough to parse and build but not to run.

They replace the plugin library where no compiler and no TensorRT headers are installed: in tests and in
the graph lint. They take everything from the schemas of ``onnx_export.symbols``: the fields that a
creator declares, which inputs it takes, types and shapes of the outputs. A plan that was built with them
still needs the real library to run.
"""

import contextlib
from collections.abc import Iterable, Iterator
from types import ModuleType

import numpy as np
import onnx

from onnx_export.symbols import OPERATORS
from onnx_export.symbols.schema import NAMING, Operator, Type
from trt_code.engine.build_only_plugin import build_only_plugin


@contextlib.contextmanager
def registered(trt: ModuleType, operators: Iterable[Operator] | None = None) -> Iterator[None]:
    """Keep a plugin creator for each operator in TensorRT's registry, by default for all operators.

    A creator that is registered already, for example by the plugin library, stays.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        operators: the operators to register.
    """
    registry = trt.get_plugin_registry()
    creator_type = _creator_type(trt)
    known = {creator.name for creator in registry.all_creators}
    added = []
    try:
        for operator in OPERATORS.values() if operators is None else operators:
            if operator.name not in known:
                added.append(creator_type(operator))
                registry.register_creator(added[-1], NAMING["plugin_namespace"])
        yield
    finally:
        for creator in added:
            registry.deregister_creator(creator)


def _creator_type(trt: ModuleType) -> type:
    plugin_type = _plugin_type(trt)
    kinds = _field_types(trt)

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self, operator: Operator) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name = operator.name
            self.plugin_version = NAMING["plugin_version"]
            self.plugin_namespace = NAMING["plugin_namespace"]
            self.field_names = trt.PluginFieldCollection(
                [
                    trt.PluginField(name, np.array([]), kinds[attribute.type])
                    for name, attribute in operator.attributes.items()
                ]
            )
            self.operator = operator

        def create_plugin(self, name, fields, phase):
            given = {field.name: np.asarray(field.data).reshape(-1)[0].item() for field in fields}
            return plugin_type(self.operator, given)

    return Creator


def _field_types(trt: ModuleType) -> dict[type, object]:
    return {int: trt.PluginFieldType.INT32, float: trt.PluginFieldType.FLOAT32}


def _plugin_type(trt: ModuleType) -> type:
    elements = {
        trt.float32: onnx.TensorProto.FLOAT,
        trt.float16: onnx.TensorProto.FLOAT16,
        trt.bfloat16: onnx.TensorProto.BFLOAT16,
        trt.int32: onnx.TensorProto.INT32,
    }
    types = {element: kind for kind, element in elements.items()}
    kinds, storage = _field_types(trt), {int: np.int32, float: np.float32}

    class Plugin(build_only_plugin(trt)):
        def __init__(self, operator: Operator, attributes: dict[str, int | float]) -> None:
            self.operator, self.attributes = operator, attributes
            self.form = operator.form(attributes)
            missing = [name for name in self.form.needs if name not in attributes]
            if missing:
                raise ValueError(f"{operator.name}: attribute '{missing[0]}' is missing")
            version, namespace = NAMING["plugin_version"], NAMING["plugin_namespace"]
            super().__init__(operator.name, version, namespace, len(self.form.outputs))

        def get_output_data_types(self, input_types):
            self.form.function(len(input_types))
            given = [elements.get(kind, onnx.TensorProto.INT64) for kind in input_types]
            return [types[element] for element in self.form.output_elements(given)]

        def get_output_shapes(self, inputs, shape_inputs, builder):
            expressions = {
                f"{index}.{axis}": dims[axis]
                for index, dims in enumerate(inputs)
                for axis in range(len(dims))
            }
            symbols = [
                [f"{index}.{axis}" for axis in range(len(dims))]
                for index, dims in enumerate(inputs)
            ]
            shapes = []
            for sizes in self.form.output_dims(symbols, self.attributes):
                dims = trt.DimsExprs(len(sizes))
                for axis, size in enumerate(sizes):
                    known = isinstance(size, int)
                    dims[axis] = builder.constant(size) if known else expressions[size]
                shapes.append(dims)
            return shapes

        def supports_format_combination(self, pos, in_out, num_inputs):
            tensor = [*self.form.inputs[:num_inputs], *self.form.outputs][pos]
            desc = in_out[pos].desc  # those after pos are not set yet
            if desc.format != trt.TensorFormat.LINEAR or desc.type not in elements:
                return False
            same = tensor.type != Type.DATA or desc.type == in_out[0].desc.type
            return same and elements[desc.type] in tensor.type.elements

        def get_fields_to_serialize(self):
            return trt.PluginFieldCollection(
                [
                    trt.PluginField(
                        name, np.array([value], storage[type(value)]), kinds[type(value)]
                    )
                    for name, value in self.attributes.items()
                ]
            )

        def clone(self):
            return Plugin(self.operator, self.attributes)

    return Plugin
