"""Parameters and Mult-Adds of every recipe's network: ``make model-stats``.

Mult-Adds are the multiplications of matrix products, convolutions and attention for one sentence of 30
source and 30 target tokens, counted from the operators that the network calls. The projection to the
vocabulary has a separate column, because the published counts leave it out.
"""

import argparse
import ast
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from train_model import ops, recipe  # noqa: F401  ops registers the operators that are counted
from train_model.cli import Parser, UserError, add_count, first_line, run
from train_model.data.dictionary import UNK
from train_model.models.architectures import ARCHITECTURES, Family, architecture_of
from train_model.models.config import MAX_POSITIONS

# Source and target vocabulary sizes of the prepared corpora; the exact size changes only the columns
# "embeddings" and "vocabulary".
VOCABULARY = {
    "demo": (512, 512),
    "wmt16": (32768, 32768),
    "iwslt14": (8848, 6632),
    "cnndm": (30000, 30000),
    "en-de": (8000, 8000),
    "en-de-sampled": (8000, 8000),
}
# Wu et al. 2020, arXiv 2004.11886, and the table in mit-han-lab/lite-transformer's README.
PUBLISHED = {"wmt16-ar-200": 90e6, "wmt16-ar-408": 360e6, "wmt16-ar-496": 527e6}
_START = "start_from"


@dataclasses.dataclass(frozen=True)
class Cost:
    """A network's parameters, and its Mult-Adds for one sentence.

    ``decode`` excludes the projection to the vocabulary, which is ``vocabulary``.
    """

    parameters: int
    embeddings: int
    encode: int
    decode: int
    vocabulary: int

    @property
    def mult_adds(self) -> int:
        """The Mult-Adds as publications count them."""
        return self.encode + self.decode


@register_flop_formula(torch.ops.lite.dynamic_conv)
def _dynamic_conv_flops(x_shape, weight_shape, *_, **__) -> int:
    batch, channels, length = x_shape
    return 2 * batch * channels * length * weight_shape[2]


def cost(model: nn.Module, source_length: int, target_length: int) -> Cost:
    """Count the Mult-Adds of ``model``, on the meta device, for one sentence.

    An autoregressive network decodes one token at a time and attends only to earlier tokens. A
    non-autoregressive network fills a canvas of the target's length, an iterative one in every pass; a CRF
    is not counted.
    """
    config = model.config
    source = torch.full((1, source_length), UNK, device="meta")
    encode, encoded = _count(lambda: model.encode(source))
    decode = _DECODING[architecture_of(model).family](model, encoded, target_length)
    vocabulary = target_length * config.encoder_embed_dim * config.tgt_vocab
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embeddings=sum(table.weight.numel() for table in tables),
        encode=encode,
        decode=decode - vocabulary,
        vocabulary=vocabulary,
    )


def _count(call: Callable[[], Any]) -> tuple[int, Any]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = call()
    return counter.get_total_flops() // 2, result


def _count_canvas(model: nn.Module, encoded: Any, length: int) -> int:
    canvas = torch.full((1, length), UNK, device="meta")
    return _count(lambda: model.decode(canvas, encoded))[0]


def _count_passes(model: nn.Module, encoded: Any, length: int) -> int:
    return model.refinement.passes * _count_canvas(model, encoded, length)


def _count_steps(model: nn.Module, encoded: Any, length: int) -> int:
    decoder = model.decoder
    once, source = _count(lambda: decoder.project_source(encoded))
    token = torch.zeros(1, 1, dtype=torch.int64, device="meta")

    def step(tokens_so_far: int) -> int:
        shapes = decoder.state_shapes(1, tokens_so_far)
        state = {name: torch.zeros(shape, device="meta") for name, shape in shapes.items()}
        return _count(lambda: decoder.step(token, token, token[0, 0], source, state))[0]

    # the cost grows linearly with the step, so the first and the last step give the sum
    return once + length * (step(1) + step(length)) // 2


_DECODING: dict[Family, Callable[[nn.Module, Any, int], int]] = {
    "one-pass": _count_canvas,
    "iterative": _count_passes,
    "autoregressive": _count_steps,
}


def recipes() -> list[str]:
    """Return the recipes that describe a network; the others continue from a checkpoint."""
    return [name for name in recipe.names() if _START not in recipe.load(name).flags]


def build(name: str) -> nn.Module:
    """Build a recipe's network on the meta device: shapes without memory.

    Raises:
        UserError: there is no such recipe, or it continues from a checkpoint.
    """
    chosen = recipe.load(name)
    if _START in chosen.flags:
        raise UserError(
            f"the network of {name} is that of a checkpoint; there are {', '.join(recipes())}"
        )
    # fairseq's own lightconv takes a list as one text
    flags = {
        key: ast.literal_eval(value) if isinstance(value, str) and value[0] == "[" else value
        for key, value in chosen.flags.items()
    }
    args = argparse.Namespace(**flags)
    sizes = VOCABULARY[chosen.corpus]
    with torch.device("meta"):
        architecture = ARCHITECTURES[args.arch]
        return architecture.build(architecture.configure(args, *sizes)).eval()


def table(names: list[str], source_length: int, target_length: int) -> str:
    """Return a Markdown table with one row per recipe; counts in millions."""
    rows = [
        "| recipe | parameters | embeddings | encoder | decoder | Mult-Adds | published | vocabulary |",
        "| --- " + "| ---: " * 7 + "|",
    ]
    for name in names:
        found = cost(build(name), source_length, target_length)
        published = f"{PUBLISHED[name] / 1e6:.0f}" if name in PUBLISHED else ""
        numbers = (
            found.parameters,
            found.embeddings,
            found.encode,
            found.decode,
            found.mult_adds,
        )
        cells = [name, *(f"{n / 1e6:.1f}" for n in numbers), published]
        rows.append(f"| {' | '.join(cells)} | {found.vocabulary / 1e6:.1f} |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("--recipe", nargs="*", default=recipes(), help="default: all")
    for side in ("source", "target"):
        add_count(parser, f"--{side}-length", 30, "tokens", MAX_POSITIONS)
    arguments = parser.parse_args(argv)
    print(table(arguments.recipe, arguments.source_length, arguments.target_length))


if __name__ == "__main__":
    run(main)
