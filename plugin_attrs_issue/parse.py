"""Shows what the ONNX parser of TensorRT hands to a plugin's creator, with and without declared fields.

    python -m plugin_attrs_issue.parse

The plugin and its creator are Python classes, so this needs no compiler, no headers and no GPU: only
TensorRT for Python (`pip install tensorrt-rtx`). The engine is built and not run.
"""

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import onnx
from onnx import numpy_helper

from plugin_attrs_issue.show import ATTRIBUTES, make_model
from train_model.cli import Parser, first_line, run
from trt_code.engine.build_only_plugin import build_only_plugin
from trt_code.engine.tensorrt_api import load_tensorrt, title_of

# The fields that the creator of the fixed plugin declares, each named after an attribute.
FIELDS = {"scalar": "FLOAT32", "times": "INT32", "offsets": "INT32", "mode": "CHAR"}
# Attributes that arrive in another form, or that a plugin cannot use.
CHANGED = {
    "INT above 32 bits": {"times": 2**40 + 7},
    "list of strings": {"mode": ["ab", "cde"]},
    "FLOAT64 tensor": {"scalar": numpy_helper.from_array(np.array([0.5, 1.5]))},
    "INT64 tensor": {"offsets": numpy_helper.from_array(np.array([10, 20]))},
    "BOOL tensor": {"offsets": numpy_helper.from_array(np.array([True, False]))},
}


@dataclass
class Outcome:
    """The results of one parse and build.

    Attributes:
        arrived: the fields that ``create_plugin`` received, in text, by name.
        said: warnings and errors of the parser and the builder.
        plan_bytes: the size of the engine; None if none was built.
    """

    arrived: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    plan_bytes: int | None = None


def parse_and_build(trt: ModuleType, model: onnx.ModelProto, fields: dict[str, str]) -> Outcome:
    """Parse ``model`` with a creator that declares ``fields``, and build an engine from it."""
    outcome = Outcome()
    logger = _logger(trt, outcome)
    creator = _creator(trt, outcome, fields)
    registry = trt.get_plugin_registry()
    registry.register_creator(creator, "")
    try:
        builder = trt.Builder(logger)
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = trt.OnnxParser(network, logger)
        if parser.parse(model.SerializeToString()):
            config = builder.create_builder_config()
            profile = builder.create_optimization_profile()
            profile.set_shape("x", (1, 5), (2, 5), (7, 5))
            config.add_optimization_profile(profile)
            plan = builder.build_serialized_network(network, config)
            outcome.plan_bytes = None if plan is None else plan.nbytes
    finally:
        registry.deregister_creator(creator)
    return outcome


def _logger(trt: ModuleType, outcome: Outcome):
    class Logger(trt.ILogger):
        def log(self, severity, message):
            worst = (trt.ILogger.WARNING, trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            # a machine without a GPU has no driver, which does not matter here
            if severity in worst and "CUDA driver" not in message:
                outcome.said.append(" ".join(message.split()))

    return Logger()


def _creator(trt: ModuleType, outcome: Outcome, fields: dict[str, str]):
    kinds = trt.PluginFieldType

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self):
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = "AddScalar", "1", ""
            self.field_names = trt.PluginFieldCollection(
                [
                    trt.PluginField(name, np.array([]), getattr(kinds, kind))
                    for name, kind in fields.items()
                ]
            )

        def create_plugin(self, name, given, phase):
            outcome.arrived |= {item.name: _in_text(trt, item) for item in given}
            return _plugin(trt)

    return Creator()


def _in_text(trt: ModuleType, item) -> str:
    kind = str(item.type).rpartition(".")[2]
    try:
        values = np.asarray(item.data).reshape(-1)
    except AttributeError:  # a type for which the Python API has no array
        return f"{kind}, {item.size} values that cannot be read"
    if item.type == trt.PluginFieldType.CHAR:
        return f"{kind} {values.astype(np.uint8).tobytes()!r}"
    return f"{kind} {values.tolist()}"


def _plugin(trt: ModuleType):
    class AddScalar(build_only_plugin(trt)):
        """The least that the builder asks of a plugin of one input and one output of its shape."""

        def __init__(self):
            super().__init__("AddScalar", "1", "", num_outputs=1)

        def get_output_data_types(self, types):
            return [types[0]]

        def get_output_shapes(self, inputs, shape_inputs, builder):
            return [trt.DimsExprs(inputs[0])]

        def supports_format_combination(self, pos, in_out, num_inputs):
            desc = in_out[pos].desc
            return desc.type == trt.float32 and desc.format == trt.TensorFormat.LINEAR

        def clone(self):
            return AddScalar()

    return AddScalar()


def report(outcome: Outcome) -> str:
    """Three lines: what arrived, what TensorRT said, what was built."""
    arrived = ", ".join(f"{name} {value}" for name, value in outcome.arrived.items())
    built = f"built, {outcome.plan_bytes} bytes" if outcome.plan_bytes else "not built"
    return (
        f"  create_plugin receives  {arrived or 'nothing'}\n"
        f"  TensorRT says           {'; '.join(outcome.said) or 'nothing'}\n"
        f"  engine                  {built}"
    )


def main(argv: list[str] | None = None) -> None:
    """Print what arrives; see ``--help``."""
    Parser(description=first_line(__doc__)).parse_args(argv)
    trt = load_tensorrt()
    print(f"{title_of(trt)}; the node's attributes: {ATTRIBUTES}")
    for title, fields in (("no declared fields", {}), ("all four declared", FIELDS)):
        print(f"\n{title}:\n{report(parse_and_build(trt, make_model(), fields))}")
    print("\nattributes that do not arrive as they are, each declared:")
    for title, attributes in CHANGED.items():
        (name,) = attributes
        outcome = parse_and_build(trt, make_model(attributes), {name: FIELDS[name]})
        said = f"; TensorRT says {'; '.join(outcome.said)}" if outcome.said else ""
        print(f"  {title:18} {outcome.arrived.get(name, 'nothing')}{said}")


if __name__ == "__main__":
    run(main)
