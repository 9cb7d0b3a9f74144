"""From a PyTorch module to a checked ONNX file: what every export of the project has in common."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from onnx_export.naming import name_by_scope
from onnx_export.symbols import EXPORTED, FUNCTIONS, TRANSLATIONS
from train_model.cli import UserError

OPSET = 20
# A protobuf message ends at 2 GiB; weights above this go into a file beside the graph.
EXTERNAL_DATA_ABOVE = 2**31 - 2**24


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor | Mapping[str, Tensor]],
    axes: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str],
    limits: Mapping[str, int] | None = None,
) -> ir.Model:
    """Export ``module``, in evaluation mode, to a graph of opset 20.

    Args:
        module: called with the inputs in their order; a group of inputs is one list to it.
        inputs: an example by the name that the graph's input gets, or a named group of such.
        axes: names of the dynamic axes of every input; one name is one size.
        outputs: names of what the module returns.
        limits: the greatest size of an axis, by its name.

    Returns:
        The graph, its nodes named by their place in the network, with reference functions of the
        project's operators beside them.
    """
    limits = limits or {}
    names = {name for axis in axes.values() for name in axis.values()}
    dims = {name: torch.export.Dim(name, min=1, max=limits.get(name)) for name in names}

    def shape(name: str) -> dict[int, torch.export.Dim]:
        return {axis: dims[dim] for axis, dim in axes.get(name, {}).items()}

    groups = [
        (list(value.values()), list(value)) if isinstance(value, Mapping) else (value, name)
        for name, value in inputs.items()
    ]
    input_names = [n for _, name in groups for n in ([name] if isinstance(name, str) else name)]
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(value for value, _ in groups),
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=list(outputs),
            dynamic_shapes=tuple(
                shape(name) if isinstance(name, str) else list(map(shape, name))
                for _, name in groups
            ),
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    model = program.model
    _simplify(model)
    name_by_scope(model)
    for name in EXPORTED:
        function = ir.serde.deserialize_function(FUNCTIONS[name])
        model.functions[function.identifier()] = function
    model.producer_name, model.producer_version = "lite_transformer_trt", ""
    return model


def save(model: ir.Model, path: Path) -> None:
    """Write ``model`` and check the file; an existing one is replaced only by a checked one.

    Weights go to ``<name>.data`` beside it where they do not fit one file.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            weights = sum(value.const_value.nbytes for value in model.graph.initializers.values())
            data = f"{path.name}.data" if weights > EXTERNAL_DATA_ABOVE else None
            ir.save(model, draft, external_data=data)
            onnx.checker.check_model(str(draft), full_check=True)
            if data:
                draft.with_name(data).replace(path.with_name(data))
            else:
                path.with_name(f"{path.name}.data").unlink(missing_ok=True)
            draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _simplify(model: ir.Model) -> None:
    """Fold constants, transposed weights among them unless another node reads the same weight."""

    def should_fold(node: ir.Node) -> bool | None:
        if node.op_type == "Transpose" and node.inputs[0].is_initializer():
            return len(node.inputs[0].uses()) == 1
        return None

    no_limit = 2**31
    optimizer.optimize_ir(
        model, input_size_limit=no_limit, output_size_limit=no_limit, should_fold=should_fold
    )


@contextlib.contextmanager
def _quiet():
    """The exporter's remarks on packages that the network does not use, and on its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
