"""Command-line arguments that several programs share: one spelling and one check for each.

A program makes a ``train_model.cli.Parser``, calls the ``add_...`` functions it needs and passes what
``parse_args`` returns to ``device``, ``runner_options`` and ``search_options``. Nothing here imports a
framework, so ``--help`` and a mistyped option answer at once.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from train_model.cli import (
    MAX_THREADS,
    UserError,
    add_count,
    number,
    output_folder,
    path_argument,
    size,
)
from train_model.model_folder import MODEL_HELP, ModelFolder
from train_model.models.architectures import Family
from train_model.models.hypotheses import MAX_BEAM, check_beam
from train_model.models.refinement import MAX_ITERATIONS
from trt_code import runners
from trt_code.devices import default_device, processors
from trt_code.engine.plan import CUDA_GRAPHS, KERNELS
from trt_code.runners import PRECISIONS
from trt_code.runners.rescoring import Rescoring

MAX_SIZE = 1 << 16
"""The largest batch, and the longest source, that an option accepts."""
MAX_LINES = 10_000_000
"""The most lines that a program keeps in memory because an option asks for them."""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and ``--build-dir``."""
    parser.add_argument("--model", default="demo", help=MODEL_HELP)
    add_build_dir(parser)


def add_build_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--build-dir``."""
    parser.add_argument(
        "--build-dir", type=path_argument, default="build", help="folder of the built files (build)"
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add ``--split`` and ``--limit``, which choose sentences of a model's text."""
    parser.add_argument("--split", default="test", help="default: test")
    add_count(parser, "--limit", None, "only the first N sentences")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto"
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--threads``, and the options of ``add_engine``."""
    add_device(parser)
    add_count(parser, "--threads", processors(), "CPU threads", MAX_THREADS)
    add_engine(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add ``--kernels`` and ``--cuda-graph``, which say how a TensorRT engine runs."""
    engine = parser.add_argument_group("options of TensorRT engines", "see doc/engine.md")
    engine.add_argument(
        "--kernels",
        choices=KERNELS,
        default=KERNELS[0],
        help=f"when TensorRT for RTX compiles kernels for a new shape; default: {KERNELS[0]}",
    )
    engine.add_argument(
        "--cuda-graph",
        choices=CUDA_GRAPHS,
        default=CUDA_GRAPHS[0],
        help=f"who captures a CUDA graph; default: {CUDA_GRAPHS[0]}",
    )


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Add ``--runner`` and ``--precision`` for a program that uses one runner."""
    parser.add_argument(
        "--runner",
        choices=["auto", *runners.names()],
        default="auto",
        help="default: the fastest here",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")


def add_runners(parser: argparse.ArgumentParser, precisions: str, rivals: bool = False) -> None:
    """Add ``--runner`` and ``--precision`` for a program that compares several, as lists of names.

    Args:
        precisions: the default of ``--precision``, comma-separated.
        rivals: whether ``--runner`` takes the rivals too.
    """
    known = runners.names() + (runners.rivals() if rivals else [])
    add_names(parser, "--runner", known, "runner", ",".join(runners.names()))
    add_names(parser, "--precision", PRECISIONS, "precision", precisions)


def add_names(
    parser: argparse.ArgumentParser,
    name: str,
    known: Sequence[str],
    kind: str,
    default: str | None = None,
    meaning: str = "",
) -> None:
    """Add an option that takes a comma-separated choice among ``known``, by default all of them.

    Args:
        kind: what the names are, for messages.
        default: comma-separated; "" for none.
        meaning: added to the help.
    """
    given = ",".join(known) if default is None else default
    parser.add_argument(
        name,
        type=lambda text: parse_names(text, known, kind),
        default=given.split(",") if given else [],
        metavar="NAME,...",
        help="; ".join(
            text
            for text in (f"of {', '.join(known)}", meaning, given and f"default: {given}")
            if text
        ),
    )


def add_shapes(parser: argparse.ArgumentParser, name: str, default: str, meaning: str = "") -> None:
    """Add an option that takes shapes, e.g. ``16x32,1x8``; its value is as ``parse_shapes`` gives it."""
    parser.add_argument(
        name,
        type=parse_shapes,
        default=parse_shapes(default),
        metavar="BxS,...",
        help=f"batch x source tokens{meaning}, comma-separated; default: {default}",
    )


def add_sizes(
    parser: argparse.ArgumentParser, name: str, default: str, meaning: str, most: int = MAX_SIZE
) -> None:
    """Add an option that takes whole numbers from 1 to ``most``, e.g. ``1,4,16``."""
    parser.add_argument(
        name,
        type=lambda text: parse_sizes(text, name, most),
        default=parse_sizes(default, name),
        metavar="N,...",
        help=f"{meaning}, comma-separated; default: {default}",
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of a beam search under fairseq-generate's names."""
    search = parser.add_argument_group(
        "options of fairseq-generate", "for autoregressive and iterative models"
    )
    add_count(search, "--beam", None, "hypotheses; default: 1, greedy", MAX_BEAM)
    add_lenpen(search)
    add_count(
        search,
        "--iter-decode-max-iter",
        None,
        "passes of an iterative network's decoder after the first; default: the checkpoint's, or 10",
        MAX_ITERATIONS,
        least=0,
    )


def add_lenpen(parser: argparse.ArgumentParser) -> None:
    """Add ``--lenpen``."""
    parser.add_argument(
        "--lenpen",
        type=number(-10, 10),
        metavar="X",
        help="exponent of a hypothesis' length; default: 1",
    )


def add_rescoring(parser: argparse.ArgumentParser) -> None:
    """Add ``--candidates`` and ``--judge``."""
    group = parser.add_argument_group(
        "noisy parallel decoding", "for one-pass models; see doc/python.md"
    )
    add_count(
        group,
        "--candidates",
        None,
        "translations per sentence, of different lengths, of which the judge chooses",
        MAX_BEAM,
    )
    group.add_argument(
        "--judge",
        metavar="MODEL",
        help="autoregressive model with the same dictionaries; default: the one that model.yaml names",
    )


def add_batching(
    parser: argparse.ArgumentParser, max_tokens: int | Mapping[str, int], max_sentences: int
) -> None:
    """Add ``--max-tokens`` and ``--max-sentences``, the bounds of a batch.

    If ``max_tokens`` depends on the device, the default is None.
    """
    meaning = "most tokens in a batch, padding included"
    if isinstance(max_tokens, Mapping):
        meaning += f"; default: {max_tokens['cpu']}, on a GPU {max_tokens['cuda']}"
        max_tokens = None
    add_count(parser, "--max-tokens", max_tokens, meaning)
    add_count(parser, "--max-sentences", max_sentences, "most sentences in a batch")


def add_refusals(group: argparse._ArgumentGroup) -> None:
    """Add ``--too-long`` and ``--unknown``, for lines that the model cannot translate as they are."""
    group.add_argument(
        "--too-long", choices=["refuse", "cut"], default="refuse", help="default: refuse"
    )
    group.add_argument(
        "--unknown",
        choices=["refuse", "keep", "drop"],
        help="units that the dictionary lacks: refuse the line, keep them as <unk>, or drop them; "
        "default: the model's own policy",
    )


def add_output(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add ``--output``, the folder of the results."""
    parser.add_argument(
        "--output",
        type=output_folder,
        default=folder,
        help=f"folder of the results ({folder})",
    )


def device(arguments: argparse.Namespace) -> str:
    """The device that ``--device`` names: "cpu" or "cuda"."""
    return default_device() if arguments.device == "auto" else arguments.device


def runner_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of ``runners.create`` that the arguments hold."""
    shared = {"threads": arguments.threads, "build_dir": arguments.build_dir}
    return shared | engine_options(arguments)


def engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of ``runners.create`` that ``add_engine`` added."""
    return {"kernels": arguments.kernels, "cuda_graph": arguments.cuda_graph}


def search_options(family: Family, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a search for ``runners.create``; warns of those that the family does not have.

    Raises:
        UserError: the beam is smaller than ``--n-best``.
    """
    why, ignored = _IGNORED[family]
    for option, harmless in ignored.items():
        value = getattr(arguments, option)
        if value is not None and value != harmless:
            name = option.replace("_", "-")
            print(f"warning: --{name} {value} is ignored: {why}", file=sys.stderr)
    if family == "autoregressive":
        check_beam(arguments.beam, getattr(arguments, "n_best", None))
    return {
        "beam": arguments.beam,
        "len_penalty": arguments.lenpen,
        "max_iter": arguments.iter_decode_max_iter,
    }


def rescoring(files: ModelFolder, arguments: argparse.Namespace, device: str) -> Rescoring | None:
    """The rescoring that ``add_rescoring``'s options ask for, or None.

    Raises:
        UserError: see ``trt_code.runners.rescoring.Rescoring.of``.
    """
    return Rescoring.of(files, arguments.candidates, arguments.judge, device, arguments.threads)


# The options that a family does not have, with their values that change nothing.
_IGNORED: dict[Family, tuple[str, dict[str, float]]] = {
    "one-pass": (
        "the network makes the whole translation in one pass, without beam search",
        {"beam": 1, "iter_decode_max_iter": 0, "lenpen": 1.0},
    ),
    "iterative": ("the network has no beam search", {"beam": 1, "lenpen": 1.0}),
    "autoregressive": ("the network gives one token per step", {"iter_decode_max_iter": 0}),
}


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """Parse ``16x32,1x8`` into (batch, source length) pairs.

    Raises:
        UserError: something else, or a source without room for bos, a word and eos.
    """
    shapes = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)x([0-9]+)\s*", part)
        batch, length = map(size, match.groups()) if match else (0, 0)
        if not 1 <= batch <= MAX_SIZE or not 3 <= length <= MAX_SIZE:
            raise UserError(
                f"shape {part!r} is not BATCHxLENGTH with a batch of 1 and a length of 3 at least, and "
                f"{MAX_SIZE} at most; give e.g. --shape 16x32,1x8"
            )
        shapes.append((batch, length))
    return shapes


def parse_sizes(text: str, name: str, most: int = MAX_SIZE) -> list[int]:
    """Parse ``1,4,16``, the value of the option ``name``; raises ``UserError`` for something else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(0 < size(part) <= most for part in parts):
        raise UserError(
            f"{name} {text!r} is not a list of whole numbers above 0, and {most} at most; "
            f"write e.g. {name} 1,4,16"
        )
    return [int(part) for part in parts]


def parse_names(text: str, known: Sequence[str], kind: str) -> list[str]:
    """Parse a choice among ``known``, separated by commas or spaces, each once.

    Raises:
        UserError: a name is not known.
    """
    names = list(dict.fromkeys(re.split(r"\s*,\s*|\s+", text.strip())))
    for name in names:
        if name not in known:
            raise UserError(f"no {kind} {name!r}; choose from {', '.join(known)}")
    return names
