"""Exports a checkpoint to ONNX with dynamic batch and length.

The project's operators stay one node each, in the domain ``lite``; a model-local function next to each
lets any ONNX runtime run the file without a library of this project.

    python -m onnx_export.export --checkpoint checkpoint.pt --output model.onnx

A one-pass network becomes one file, or with ``--split`` two, which decode no further than the translations
reach; see ``onnx_export/export_split.py``. Iterative and autoregressive networks always become two files, see
``onnx_export/export_split.py`` and ``onnx_export/export_ar.py``.
"""

import argparse

from onnx_export.families import exporter
from train_model.cli import Parser, check_output, first_line, path_argument, run
from train_model.models.architectures import architecture_of
from train_model.models.checkpoint import load_marked


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "--checkpoint", type=path_argument, required=True, help="fairseq checkpoint (.pt)"
    )
    parser.add_argument("--output", type=path_argument, required=True, help="ONNX file to write")
    parser.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="do the network's constant algebra before the export (train_model/models/fold.py)",
    )
    parser.add_argument(
        "--split",
        action="store_true",
        help="two files next to OUTPUT, model.encoder.onnx and model.decoder.onnx, instead of one",
    )
    arguments = parser.parse_args(argv)
    check_output(arguments.output, arguments.checkpoint)
    model = load_marked(arguments.checkpoint).model
    found = exporter(model, arguments.split)
    if arguments.fold:
        model = architecture_of(model).fold(model)
    written = (found.write_split if arguments.split else found.write)(model, arguments.output)
    for path in written:
        size = path.stat().st_size / 2**20
        print(f"{path}: {size:.1f} MiB, padding {model.config.padding_policy}")
    return 0


if __name__ == "__main__":
    run(main)
