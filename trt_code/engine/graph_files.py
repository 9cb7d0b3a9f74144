"""Reads what a build needs from an ONNX graph before TensorRT parses it."""

from dataclasses import dataclass
from pathlib import Path

from train_model.cli import UserError
from train_model.data.files import sha256_of
from train_model.file_sets import settle

OLD_EXPORT_POSITIONS = 254  # in the published lite.onnx, which does not record it


@dataclass(frozen=True)
class GraphFiles:
    """An ONNX file, the files of its weights, the names of its functions and its metadata.

    Attributes:
        needs_plugins: whether it has nodes that are not ONNX's own operators.
        axes: the axes of every input: a name where the size is free, a number where it is fixed.
    """

    path: Path
    weights: tuple[Path, ...]
    functions: tuple[str, ...]
    needs_plugins: bool
    metadata: dict[str, str]
    axes: dict[str, tuple[str | int, ...]]

    @property
    def positions(self) -> int:
        """The longest source, in tokens."""
        return self._positions("source", OLD_EXPORT_POSITIONS)

    @property
    def target_positions(self) -> int:
        """The longest translation, in tokens."""
        return self._positions("target", self.positions)

    def _positions(self, side: str, default: int) -> int:
        name = f"max_{side}_positions"
        if name not in self.metadata:
            return default
        from onnx_export.marks import position_count

        return position_count(self.metadata, side, self.path)

    @property
    def is_tf32(self) -> bool:
        """Whether its FP32 GEMMs may run in TF32: in every precision but fp32 itself."""
        return self.metadata.get("precision") != "fp32"

    def sha256(self) -> str:
        """Hash of the graph and of its external weights, in order."""
        return sha256_of(self.path, *self.weights)


def read_graph_files(path: Path) -> GraphFiles:
    """Look into the ONNX file at ``path`` without loading external weights.

    Raises:
        UserError: the file is missing, is not ONNX, or lacks a file of its weights.
    """
    # late import: runners without a graph import this module too
    import onnx

    from onnx_export.graph_bounds import excess
    from onnx_export.onnx_file import weight_files

    settle(path.parent)
    if not path.is_file():
        raise UserError(f"no graph at {path}; make it with `make onnx patch`")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no public base
        raise UserError(
            f"{path} is not an ONNX file ({error}); make it with `make onnx patch`"
        ) from error
    if reason := excess(model):
        raise UserError(f"{path} is refused: {reason}; export it again")
    weights = tuple(weight_files(model, path))
    functions = tuple(function.name for function in model.functions)
    needs_plugins = any(node.domain not in ("", "ai.onnx") for node in model.graph.node)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    axes = {
        item.name: tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param
            for size in item.type.tensor_type.shape.dim
        )
        for item in model.graph.input
    }
    return GraphFiles(path, weights, functions, needs_plugins, metadata, axes)
