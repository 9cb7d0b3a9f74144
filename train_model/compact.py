"""Write a trained network's weights in the compact form of a model folder: INT8, one scale per row.

    python -m train_model.compact --checkpoint build/en-de-ar/checkpoint.pt \\
        --output data_model/en-de-ar/model.safetensors

Matrices take one byte per weight, and everything is FP32 again when it is loaded. Prints the ``options``
that the folder's model.yaml needs (doc/models.md).
"""

import dataclasses
from pathlib import Path

import yaml

from train_model.cli import Parser, UserError, check_output, first_line, path_argument, run
from train_model.model_yaml import WEIGHTS_ALONE
from train_model.models.checkpoint import load_checkpoint
from train_model.models.safetensors_file import save_compact

# Options that model.yaml has under other keys, and options that only training reads.
_LEFT_OUT = ("src_vocab", "tgt_vocab", "padding_policy", "left_pad_source", "int8_layers")


def compact(checkpoint: Path, output: Path) -> dict:
    """Write the weights and return the network's options that differ from their defaults.

    Raises:
        UserError: the checkpoint is missing, is an INT8 network, or the output is not a .safetensors file.
    """
    if output.suffix != WEIGHTS_ALONE:
        raise UserError(f"{output} has to end in {WEIGHTS_ALONE}, by which it is recognised")
    loaded = load_checkpoint(checkpoint)
    if getattr(loaded.config, "int8_layers", ()):
        raise UserError(f"{checkpoint} computes in INT8; give the network that it was made from")
    save_compact(output, loaded.model.state_dict())
    options = {}
    for field in dataclasses.fields(loaded.config):
        value = getattr(loaded.config, field.name)
        if field.name not in _LEFT_OUT and value != field.default:
            options[field.name] = list(value) if isinstance(value, tuple) else value
    return options


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "--checkpoint", type=path_argument, required=True, help="checkpoint of a training"
    )
    parser.add_argument("--output", type=path_argument, required=True, help="a .safetensors file")
    arguments = parser.parse_args(argv)
    check_output(arguments.output, arguments.checkpoint)
    options = compact(arguments.checkpoint, arguments.output)
    print(yaml.safe_dump({"options": options}, sort_keys=True, default_flow_style=None), end="")


if __name__ == "__main__":
    run(main)
