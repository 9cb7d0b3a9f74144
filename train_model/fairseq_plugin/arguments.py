"""Arguments that both networks have, besides fairseq's own."""

import argparse


def add_project_arguments(parser: argparse.ArgumentParser, start_from: str) -> None:
    """Add ``--padding-policy`` and ``--start-from``.

    Args:
        parser: fairseq's parser of the network's arguments.
        start_from: the help of ``--start-from``.
    """
    parser.add_argument(
        "--padding-policy",
        choices=["masked", "upstream"],
        default="masked",
        help="masked: a sentence's result does not depend on its padding; upstream: as the original",
    )
    parser.add_argument("--start-from", metavar="CHECKPOINT", help=start_from)
