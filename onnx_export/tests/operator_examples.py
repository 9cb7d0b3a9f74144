"""One small node for every form of every operator, made from the declarations in ``onnx_export.symbols``."""

import dataclasses
import math

import onnx

from onnx_export.symbols import DOMAIN, OPERATORS
from onnx_export.symbols.schema import NAMING, Form, Operator, TensorSpec

# Sizes by the names of dimensions and attributes; every other name is 3.
SIZES = {"B": 2, "T": 5, "C": 8, "H": 4, "K": 3, "V": 11, "R": 2, "heads": 4, "padding_l": 1}


@dataclasses.dataclass(frozen=True)
class Example:
    """A node and the shapes of its inputs."""

    operator: Operator
    form: Form
    inputs: list[TensorSpec]
    attributes: dict[str, int | float]

    def __str__(self) -> str:
        return f"{self.operator.name}-{'-'.join(tensor.name for tensor in self.inputs)}"

    def shape(self, tensor: TensorSpec) -> list[int]:
        """The shape of an input or output; ``...`` is one dimension of 7."""
        leading = [7] if tensor.rank is None else []
        return leading + [
            math.prod(SIZES.get(name, 3) for name in names.split("*")) for names in tensor.names
        ]

    def node(self) -> onnx.NodeProto:
        """The node, as the surgeon writes it."""
        return onnx.helper.make_node(
            self.operator.name,
            [tensor.name for tensor in self.inputs],
            [tensor.name for tensor in self.form.outputs],
            domain=DOMAIN,
            **self.attributes,
            **NAMING,
        )


def examples() -> list[Example]:
    """Every form of every operator with every number of inputs."""
    made = []
    for operator in OPERATORS.values():
        for form in operator.forms:
            attributes = {
                name: operator.attributes[name].type(SIZES.get(name, 3)) for name in form.needs
            }
            made += [
                Example(operator, form, list(form.inputs[:count]), {**attributes, **form.when})
                for count in range(form.fewest, len(form.inputs) + 1)
            ]
    return made
