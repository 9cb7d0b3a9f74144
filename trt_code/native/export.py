"""Writes a checkpoint as a native program, the file of the runner ``native``.

python -m trt_code.native.export --checkpoint checkpoint.pt --output model.native.safetensors
"""

import torch
from torch import nn

from onnx_export.metadata import metadata
from train_model.cli import Parser, UserError, check_output, first_line, path_argument, run
from train_model.models.architectures import architecture_of
from train_model.models.checkpoint import load_marked
from trt_code.native import autoregressive, one_pass
from trt_code.native.program import Program

WRITERS = {"autoregressive": autoregressive.write, "one-pass": one_pass.write}


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "--checkpoint",
        type=path_argument,
        required=True,
        help="checkpoint; a quantised one gives INT8",
    )
    parser.add_argument("--output", type=path_argument, required=True, help="file to write")
    arguments = parser.parse_args(argv)
    check_output(arguments.output, arguments.checkpoint)
    to_program(load_marked(arguments.checkpoint).model).save(arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 2**20:.1f} MiB")
    return 0


def to_program(model: nn.Module) -> Program:
    """Return the network as a program.

    Raises:
        UserError: the network has no native form.
    """
    config = model.config
    write = WRITERS.get(architecture_of(model).family)
    if write is None:
        raise UserError(f"{config.architecture} has no native form")
    program = Program(metadata(config))
    with torch.no_grad():
        write(program, model)
    return program


if __name__ == "__main__":
    run(main)
