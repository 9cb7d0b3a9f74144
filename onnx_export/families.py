"""The exporter and the verifier of each family of networks."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from onnx_export import export_ar, export_one_pass, export_split, verify_ar, verify_one_pass
from train_model.cli import UserError
from train_model.models.architectures import Family, architecture_of


@dataclasses.dataclass(frozen=True)
class Exporter:
    """The export of one family.

    Attributes:
        write: writes the files that belong to a path, and returns them.
        verify: compares the network with these files; takes a seed and the number of batches after the usual
            ones, prints a line per batch, and returns the exit status.
        write_split, verify_split: the same for the form with two files; None if the family has only one
            form.
    """

    write: Callable[[nn.Module, Path], list[Path]]
    verify: Callable[[nn.Module, Path, int, int], int]
    write_split: Callable[[nn.Module, Path], list[Path]] | None = None
    verify_split: Callable[[nn.Module, Path, int, int], int] | None = None


EXPORTERS: dict[Family, Exporter] = {
    "one-pass": Exporter(
        export_one_pass.write,
        verify_one_pass.verify_file,
        export_split.write,
        verify_one_pass.verify_split,
    ),
    "iterative": Exporter(export_split.write_pass, verify_one_pass.verify_pass),
    "autoregressive": Exporter(export_ar.write, verify_ar.verify_files),
}


def exporter(model: nn.Module, split: bool) -> Exporter:
    """Return the exporter of a network's family.

    Raises:
        UserError: ``split`` is set for a family without this form.
    """
    family = architecture_of(model).family
    found = EXPORTERS[family]
    if split and found.write_split is None:
        raise UserError(f"an {family} network is always two files; leave --split out")
    return found
