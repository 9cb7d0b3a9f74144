"""Inputs and outputs of each family's exported files: names in order, and dynamic axes.

Axes with the same name have the same size. ``batch`` counts sentences, ``src_len`` source tokens with
padding, and ``canvas`` target tokens with padding. A search adds ``beam``, ``rows`` (batch times beam) and
``room``, the number of target tokens that its state has space for.
"""

import dataclasses
from collections.abc import Mapping

SRC_TOKENS = "src_tokens"
OUTPUT_TOKENS, OUTPUT_SCORES = "output_tokens", "output_scores"

Axes = Mapping[int, str]


@dataclasses.dataclass(frozen=True)
class Signature:
    """The inputs and outputs of one file, each with its dynamic axes."""

    inputs: Mapping[str, Axes]
    outputs: Mapping[str, Axes]


_SOURCE = {0: "batch", 1: "src_len"}
_CANVAS = {0: "batch", 1: "canvas"}
_HYPOTHESES = {0: "batch", 1: "beam"}
_TRANSLATION = {OUTPUT_TOKENS: _CANVAS, OUTPUT_SCORES: _CANVAS}

# A one-pass network in one file, and in two.
WHOLE = Signature({SRC_TOKENS: _SOURCE}, _TRANSLATION)
SPLIT = {
    "encoder": Signature({SRC_TOKENS: _SOURCE}, {"encoded": _SOURCE, "lengths": {0: "batch"}}),
    "decoder": Signature(
        {SRC_TOKENS: _SOURCE, "encoded": _SOURCE, "canvas": _CANVAS}, _TRANSLATION
    ),
}

# An autoregressive network: an encoder, and one step of the decoder.
PADDING_MASK = "source.padding_mask"
STATE = "layers."  # prefix of the names of a decoder's state
NEXT = "next."  # prefix of a state's name for its value after the step


def search_encoder(layers: int) -> Signature:
    """Return the signature of the encoder for a decoder with this number of ``layers``."""
    per_layer = {0: "batch", 2: "src_len"}
    names = [f"source.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    return Signature(
        {SRC_TOKENS: _SOURCE}, {PADDING_MASK: _SOURCE} | dict.fromkeys(names, per_layer)
    )


def search_step(layers: int, state: Mapping[str, int]) -> Signature:
    """Return the signature of one step.

    Args:
        layers: number of decoder layers.
        state: the rank of each tensor of the state, by name; tensors of rank four have the axis ``room``.
    """
    axes = {name: {0: "rows"} | ({2: "room"} if n == 4 else {}) for name, n in state.items()}
    inputs = {"tokens": _HYPOTHESES, "parents": _HYPOTHESES, "position": {}}
    return Signature(
        inputs | dict(search_encoder(layers).outputs) | axes,
        {"logprobs": _HYPOTHESES} | {NEXT + name: axis for name, axis in axes.items()},
    )
