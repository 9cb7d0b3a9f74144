"""The declaration of an operator: tensors, attributes and reference functions, each written once.

One :class:`Operator` per file of this package. From it follow the ONNX ``OpSchema`` with its type and shape
inference, the node that the exporter writes, the function that replaces a plugin node in ONNX Runtime, the
types that the surgeon keeps, what the graph lint expects, and the plugin creators in Python. The C++
plugins declare the same in their own language; a test compares the two.
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx.defs import OpSchema
from onnxscript import OnnxFunction, values

from onnx_export.symbols.domain import DOMAIN, LITE, VERSION


class Type(enum.StrEnum):
    """Element types of a tensor, as ONNX schemas write them."""

    DATA = "T"  # FP32, FP16 or BF16, the same for all data tensors of a node
    FP32 = "tensor(float)"
    INT32 = "tensor(int32)"

    @property
    def elements(self) -> tuple[int, ...]:
        """The members of ``onnx.TensorProto.DataType`` that a tensor of this type can have."""
        return _ELEMENTS[self]


_ELEMENTS = {
    Type.DATA: (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16),
    Type.FP32: (onnx.TensorProto.FLOAT,),
    Type.INT32: (onnx.TensorProto.INT32,),
}
_DATA_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
_ATTRIBUTE_TYPES = {
    int: OpSchema.AttrType.INT,
    float: OpSchema.AttrType.FLOAT,
    str: OpSchema.AttrType.STRING,
}
# The parser of TensorRT finds a plugin by these attributes of its node; they do not reach the plugin.
NAMING = {"plugin_version": "1", "plugin_namespace": ""}

Size = int | str | None  # of a dimension: a number, a symbol, or unknown


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or an output.

    Attributes:
        name: as in the paper or the kernel's header.
        type: of its elements.
        dims: names of the dimensions, separated by spaces: ``"B C T"``. One name is one size. ``...`` at
            the beginning means any number of dimensions. A name may be that of an attribute, and a
            dimension may be a product: ``"B T heads*kernel_size"``.
        optional: whether a node may omit it; only the last inputs of a form can be optional.
    """

    name: str
    type: Type
    dims: str
    optional: bool = False

    @property
    def names(self) -> list[str]:
        """The dimensions that have a name, in order."""
        return [name for name in self.dims.split() if name != "..."]

    @property
    def rank(self) -> int | None:
        """The number of dimensions, or None if any number of them may come first."""
        return None if self.dims.startswith("...") else len(self.names)

    def fits_rank(self, rank: int) -> bool:
        """Whether a tensor of this many dimensions can be this one."""
        return rank >= len(self.names) if self.rank is None else rank == self.rank


@dataclasses.dataclass(frozen=True)
class Attribute:
    """An attribute of one number (or a string, for ``NAMING``).

    Attributes:
        type: ``int``, ``float`` or ``str``.
        doc: one line.
        default: the value of a node without the attribute; None if every node must have it.
    """

    type: type
    doc: str
    default: int | float | str | None = None


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to call an operator.

    Attributes:
        inputs: the optional ones last.
        outputs: all of them are always written.
        functions: the reference in standard ONNX, one for each number of optional inputs, from none on. The
            attributes that a function declares are those that its form needs.
        when: the attributes that select this form, with their values.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    functions: Sequence[OnnxFunction]
    when: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def fewest(self) -> int:
        """The number of inputs without the optional ones."""
        return sum(not tensor.optional for tensor in self.inputs)

    @property
    def needs(self) -> tuple[str, ...]:
        """The attributes that a node of this form must have."""
        return tuple(self.functions[0].to_function_proto().attribute)

    def function(self, count: int) -> OnnxFunction:
        """The reference function for ``count`` inputs.

        Raises:
            ValueError: the form takes another number of inputs.
        """
        if not self.fewest <= count <= len(self.inputs):
            expected = " or ".join(str(n) for n in range(self.fewest, len(self.inputs) + 1))
            raise ValueError(f"{count} inputs instead of {expected}")
        return self.functions[count - self.fewest]

    def output_elements(self, inputs: Sequence[int | None]) -> list[int]:
        """The element types of the outputs, from those of the inputs (None or 0 if not known).

        Raises:
            ValueError: the type of an input is wrong.
        """
        data = 0
        for tensor, element in zip(self.inputs, inputs, strict=False):
            expected = tensor.type.elements
            if tensor.type == Type.DATA and data:
                expected = (data,)
            if element and element not in expected:
                name = onnx.TensorProto.DataType.Name
                raise ValueError(
                    f"{tensor.name} is {name(element)}, not {' or '.join(map(name, expected))}"
                )
            if tensor.type == Type.DATA and element:
                data = element
        return [data if t.type == Type.DATA else t.type.elements[0] for t in self.outputs]

    def output_dims(
        self, inputs: Sequence[Sequence[Size] | None], attributes: Mapping[str, int | float]
    ) -> list[list[Size] | None]:
        """The dimensions of the outputs, from those of the inputs (None where they are not known).

        Raises:
            ValueError: the rank of an input is wrong, or two sizes of one name differ.
        """
        sizes: dict[str, Size] = {
            name: value for name, value in attributes.items() if isinstance(value, int)
        }
        leading: list[Size] | None = None
        for tensor, dims in zip(self.inputs, inputs, strict=False):
            if dims is None:
                continue
            if not tensor.fits_rank(len(dims)):
                wanted = f"{len(tensor.names)}{' or more' if tensor.rank is None else ''}"
                raise ValueError(f"{tensor.name} is of rank {len(dims)}, not {wanted}")
            first = len(dims) - len(tensor.names)
            if tensor.rank is None and leading is None:
                leading = list(dims[:first])
            for name, size in zip(tensor.names, dims[first:], strict=True):
                known = _product(sizes, name)
                if isinstance(size, int) and isinstance(known, int) and size != known:
                    raise ValueError(f"{name} of {tensor.name} is {size}, not {known}")
                if known is None:
                    sizes[name] = size
        shapes: list[list[Size] | None] = []
        for tensor in self.outputs:
            first = leading if tensor.rank is None else []
            named = [_product(sizes, name) for name in tensor.names]
            shapes.append(None if first is None else [*first, *named])
        return shapes


def _product(sizes: Mapping[str, Size], names: str) -> Size:
    """The size of a dimension that is one name or a product of names."""
    factors = [sizes.get(name) for name in names.split("*")]
    if len(factors) == 1:
        return factors[0]
    return math.prod(factors) if all(isinstance(size, int) for size in factors) else None


class Operator:
    """An operator of the project's domain.

    Args:
        name: the ``op_type`` of its nodes, and the name of its TensorRT plugin.
        doc: one sentence.
        forms: the first is the one that the exporter writes.
        attributes: by name. The order is that of the plugin's fields.
    """

    def __init__(
        self,
        name: str,
        doc: str,
        forms: Sequence[Form],
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        self.name, self.doc, self.forms = name, doc, tuple(forms)
        self.attributes = dict(attributes or {})

    @functools.cached_property
    def schema(self) -> OpSchema:
        """The full schema of all forms, with type and shape inference."""
        widest = max(self.forms, key=lambda form: len(form.inputs))
        fewest = min(form.fewest for form in self.forms)
        schema = OpSchema(
            self.name,
            DOMAIN,
            VERSION,
            self.doc,
            inputs=[self._parameter(index, fewest) for index in range(len(widest.inputs))],
            outputs=[_formal(tensor) for tensor in self.forms[0].outputs],
            type_constraints=[("T", list(_DATA_TYPES), "the precision of the node")],
            attributes=[_attribute(*item) for item in (self.attributes | _NAMING).items()],
        )
        schema.set_type_and_shape_inference_function(self._infer)
        return schema

    @functools.cached_property
    def exported(self) -> values.Op:
        """The first form without its optional inputs, for a translation to call.

        A translation must call an operator that has a schema: an onnxscript function called there would
        be written into the graph as its body, and the node for the plugin would be missing. The exporter
        writes the default of every attribute that it knows, so this schema has only the form's own.
        """
        form = self.forms[0]
        schema = OpSchema(
            self.name,
            DOMAIN,
            VERSION,
            self.doc,
            inputs=[_formal(tensor) for tensor in form.inputs[: form.fewest]],
            outputs=[_formal(tensor) for tensor in form.outputs],
            type_constraints=[("T", list(_DATA_TYPES), "the precision of the node")],
            attributes=[
                OpSchema.Attribute(name, _ATTRIBUTE_TYPES[self.attributes[name].type])
                for name in form.needs
            ],
        )
        return values.Op(LITE, self.name, schema)

    @functools.cached_property
    def functions(self) -> dict[str, onnx.FunctionProto]:
        """The reference functions of all forms by name."""
        scripts = [script for form in self.forms for script in form.functions]
        return {script.name: script.to_function_proto() for script in scripts}

    def form(self, attributes: Mapping[str, object]) -> Form:
        """The form that the attributes of a node select.

        Raises:
            ValueError: none is selected.
        """
        given = self.defaults | attributes
        for form in reversed(self.forms):
            if all(given[name] == value for name, value in form.when.items()):
                return form
        raise ValueError(f"no form of {self.name} has these attributes")

    @property
    def defaults(self) -> dict[str, int | float]:
        """The attributes that a node may omit, with the values that they then have."""
        return {
            name: attribute.default
            for name, attribute in self.attributes.items()
            if attribute.default is not None
        }

    def positions(self, type: Type, *, outputs: bool = False) -> tuple[int, ...]:
        """The indices of the inputs (or outputs) that have this type in every form that has them."""
        sides = [form.outputs if outputs else form.inputs for form in self.forms]
        return tuple(
            index
            for index in range(max(map(len, sides)))
            if all(side[index].type == type for side in sides if index < len(side))
        )

    def infer(
        self, node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]
    ) -> dict[str, onnx.TypeProto]:
        """Types and shapes of the outputs of a node, by the schema's own inference.

        Args:
            node: of this operator.
            types: of its inputs by name.

        Raises:
            onnx.checker.ValidationError: the node has a wrong number of inputs or outputs, or an attribute
                that the schema does not know.
            ValueError: the type, the rank or a size of an input is wrong, or no form fits.
        """
        opset = [onnx.helper.make_opsetid(DOMAIN, VERSION)]
        return onnx.shape_inference.infer_node_outputs(
            self.schema, node, dict(types), opset_imports=opset
        )

    def _parameter(self, index: int, fewest: int) -> OpSchema.FormalParameter:
        """Input ``index`` of the schema: the first form's name, and what the others call it."""
        tensors = [form.inputs[index] for form in self.forms if index < len(form.inputs)]
        doc = " or ".join(dict.fromkeys(f"{tensor.name} [{tensor.dims}]" for tensor in tensors))
        return _formal(tensors[0], doc, optional=index >= fewest)

    def _infer(self, context: onnx.shape_inference.InferenceContext) -> None:
        given = {name: context.get_attribute(name) for name in self.attributes}
        attributes = self.defaults | {
            name: onnx.helper.get_attribute_value(item)
            for name, item in given.items()
            if item is not None
        }
        form = self.form(attributes)
        count = context.get_num_inputs()
        types = [context.get_input_type(index) for index in range(count)]
        form.function(count)
        elements = [kind and kind.tensor_type.elem_type for kind in types]
        shapes = form.output_dims([_dims(kind) for kind in types], attributes)
        for index, (element, shape) in enumerate(
            zip(form.output_elements(elements), shapes, strict=True)
        ):
            context.set_output_type(index, onnx.helper.make_tensor_type_proto(element, shape))


def node_attributes(node: onnx.NodeProto) -> Iterator[tuple[str, object]]:
    """The attributes of a node, name and value."""
    return ((item.name, onnx.helper.get_attribute_value(item)) for item in node.attribute)


def _dims(kind: onnx.TypeProto | None) -> list[Size] | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in kind.tensor_type.shape.dim
    ]


def _formal(
    tensor: TensorSpec, doc: str | None = None, *, optional: bool = False
) -> OpSchema.FormalParameter:
    option = OpSchema.FormalParameterOption
    return OpSchema.FormalParameter(
        tensor.name,
        tensor.type,
        doc or f"[{tensor.dims}]",
        param_option=option.Optional if optional else option.Single,
    )


def _attribute(name: str, attribute: Attribute) -> OpSchema.Attribute:
    if attribute.default is None:
        return OpSchema.Attribute(name, _ATTRIBUTE_TYPES[attribute.type], attribute.doc)
    default = onnx.helper.make_attribute(name, attribute.default)
    return OpSchema.Attribute(name, default, attribute.doc)


_NAMING = {name: Attribute(str, "of the TensorRT plugin", value) for name, value in NAMING.items()}
