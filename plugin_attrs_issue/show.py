"""Walk one ONNX node's attributes into the plugin, with and without declared fields.

python -m plugin_attrs_issue.show build/plugin_attrs_issue
"""

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from train_model.cli import Parser, first_line, path_argument, run
from trt_code.plugin_host.host import Case, Outcome, PluginHost

ATTRIBUTES = {"scalar": 2.5, "times": 3, "offsets": [10, 20, 30], "mode": "subtract"}


def make_model(attributes: dict[str, object] = ATTRIBUTES) -> onnx.ModelProto:
    """One AddScalar node over x [batch, 5], as an exporter or a surgeon would write it."""
    node = helper.make_node(
        "AddScalar",
        ["x"],
        ["y"],
        name="add",
        domain="demo",
        plugin_version="1",
        plugin_namespace="",
        **attributes,
    )
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 5]) for n in "xy"]
    graph = helper.make_graph([node], "add_scalar", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("demo", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def case_of(node: onnx.NodeProto, batches: tuple[int, ...] = (2, 1, 7)) -> Case:
    """The node as a case for the plugin host, run at several batches with the same data each time."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    version, namespace = attributes.pop("plugin_version"), attributes.pop("plugin_namespace")
    inputs = [[torch.arange(5.0 * batch).reshape(batch, 5)] for batch in batches]
    types = [(torch.float32, torch.float32)]
    return Case("add", node.op_type, attributes, inputs, inputs, types, version, namespace)


def reference(x: torch.Tensor) -> torch.Tensor:
    """What the node means, in float64: x minus 3 x 2.5, plus 10, 20, 30, 10, 20 along the row."""
    offsets = torch.tensor(ATTRIBUTES["offsets"], dtype=torch.float64)
    columns = torch.arange(x.shape[-1]) % len(offsets)
    return x.double() - ATTRIBUTES["scalar"] * ATTRIBUTES["times"] + offsets[columns]


def play(build: Path, version: str, case: Case, *, drop_undeclared: bool) -> Outcome:
    """Live the case in the ``faulty`` or the ``fixed`` library."""
    host = PluginHost(build / "plugin_host", build / f"libadd_scalar_{version}.so")
    return host.play([case], drop_undeclared=drop_undeclared)[0]


def main(argv: list[str] | None = None) -> None:
    """Print what each library declares, and what then arrives in its plugin."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "build", type=path_argument, help="where make put the libraries and the host"
    )
    build = parser.parse_args(argv).build
    node = make_model().graph.node[0]
    case = case_of(node)
    print(f"the node's attributes:  {case.attributes}")
    for version in ("faulty", "fixed"):
        host = PluginHost(build / "plugin_host", build / f"libadd_scalar_{version}.so")
        outcome = play(build, version, case, drop_undeclared=True)
        print(f"\n{version}:")
        print(f"  its creator declares    {host.fields()['AddScalar']}")
        print(f"  its plugin then holds   {outcome.timing_cache_id}")
        print(f"  as the parser does it   {outcome.result} (reached {outcome.stage})")
        if outcome.enqueued:
            x, y = case.inputs[0][0], outcome.outputs[0][0]
            right = torch.equal(y.double(), reference(x))
            print(f"  first row of y          {y[0].tolist()}, {'right' if right else 'WRONG'}")
        strict = play(build, version, case, drop_undeclared=False)
        print(f"  the host, not forgiving {strict.result} {strict.message}".rstrip())


if __name__ == "__main__":
    run(main)
