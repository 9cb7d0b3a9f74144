"""Finds the range of every quantised layer's input and weight from sentences that pass through."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from train_model.models.architectures import architecture_of
from train_model.models.beam_search import search
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.models.quantized import replace_linears
from train_model.ops.fake_quantize import LARGEST, LEAST_SCALE
from train_model.quantization.quantizers import insert

METHODS = ("max", "percentile")
PERCENTILE = 99.99
"""Of the magnitudes of an input, for the method "percentile"."""


@torch.no_grad()
def calibrate(
    model: nn.Module, names: Sequence[str], batches: Iterable[Tensor], method: str = "max"
) -> dict[str, Tensor]:
    """Return the ranges of the linear layers ``names``, as entries of a state dict.

    Weights are calibrated by the largest magnitude of each row, inputs by ``method``. Every scale is
    rounded to a number of FP16, so that a graph with FP16 scales has the same ones.

    Args:
        model: the network in FP32, not changed.
        names: the linear layers that will compute in INT8.
        batches: source tokens [B, S] int64 each.
        method: "max", the largest observed magnitude, or "percentile", their percentile ``PERCENTILE``.

    Returns:
        ``<layer>.input_quantizer._amax`` [] and ``<layer>.weight_quantizer._amax`` [N, 1], FP32.

    Raises:
        UserError: nvidia-modelopt is not installed.
    """
    model = copy.deepcopy(model).eval()
    replace_linears(model, names, nn.Linear)  # modelopt accepts no other type
    insert(model, names, histogram=method != "max")
    layers = [model.get_submodule(name) for name in names]
    for layer in layers:
        layer.input_quantizer.disable_quant()
        layer.input_quantizer.enable_calib()
        layer.weight_quantizer.disable_quant()
    for tokens in batches:
        _translate(model, tokens)
    ranges = {}
    for name, layer in zip(names, layers, strict=True):
        if method == "percentile":
            layer.input_quantizer.load_calib_amax(method, percentile=PERCENTILE)
        else:
            layer.input_quantizer.load_calib_amax()
        ranges[f"{name}.input_quantizer._amax"] = rounded(layer.input_quantizer.amax.float())
        largest = layer.weight.abs().amax(1, keepdim=True)
        ranges[f"{name}.weight_quantizer._amax"] = rounded(largest.float())
    return ranges


def _translate(model: nn.Module, tokens: Tensor) -> None:
    """Run the whole network on the sources [B, S], step by step if it is autoregressive."""
    if architecture_of(model).family == "autoregressive":
        search(IncrementalDecoder.of(model), tokens, SearchOptions(beam=1))
    else:
        model(tokens)


def rounded(amax: Tensor) -> Tensor:
    """Return the range near ``amax`` that gives a scale which is a normal FP16 number."""
    return (amax / LARGEST).clamp(min=LEAST_SCALE).half().float() * LARGEST
