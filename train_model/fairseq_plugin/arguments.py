"""Arguments that both networks have, besides fairseq's own, and their defaults."""

import argparse
import dataclasses


def add_project_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--padding-policy`` and ``--start-from`` to fairseq's parser of the network's arguments."""
    parser.add_argument(
        "--padding-policy",
        choices=["masked", "upstream"],
        default="masked",
        help="masked: a sentence's result does not depend on its padding; upstream: as the original",
    )
    parser.add_argument(
        "--start-from",
        metavar="CHECKPOINT",
        help="begin with this network's weights, sizes and padding policy; dropout and loss are those given "
        "here. What computes in INT8 in it is trained with that rounding (train_model/quantization)",
    )


def add_defaults(args: argparse.Namespace, config_type: type) -> None:
    """Write the defaults of a network's configuration into ``args``, unless they are given.

    fairseq stores ``args`` in the checkpoint, so the checkpoint records what was trained.
    """
    for field in dataclasses.fields(config_type):
        if field.default is not dataclasses.MISSING and not hasattr(args, field.name):
            setattr(args, field.name, field.default)
