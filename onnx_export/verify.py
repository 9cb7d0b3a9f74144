"""Checks that exported files compute what the network computes, over a grid of shapes and paddings.

PyTorch in FP32 on the CPU is the reference, ONNX Runtime on the CPU runs the files.

    python -m onnx_export.verify --checkpoint checkpoint.pt --onnx model.onnx

With ``--split`` it is the two files of ``onnx_export.export --split`` that run. What is compared depends on
the family: see ``onnx_export/verify_one_pass.py`` and ``onnx_export/verify_ar.py``.
"""

from onnx_export.families import exporter
from train_model.cli import Parser, add_count, first_line, path_argument, run
from train_model.models.checkpoint import load_checkpoint


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "--checkpoint", type=path_argument, required=True, help="fairseq checkpoint (.pt)"
    )
    parser.add_argument(
        "--onnx", type=path_argument, required=True, help="the file exported from it"
    )
    add_count(parser, "--seed", 0, "seed of the random sources", least=0)
    parser.add_argument("--split", action="store_true", help="the files of export --split")
    add_count(parser, "--more", 0, "batches of 16 after the grid", least=0)
    arguments = parser.parse_args(argv)
    model = load_checkpoint(arguments.checkpoint).model
    found = exporter(model, arguments.split)
    verify = found.verify_split if arguments.split else found.verify
    return verify(model, arguments.onnx, arguments.seed, arguments.more)


if __name__ == "__main__":
    run(main)
