"""Quantisation-aware fine-tuning: a quantised network that rounds with nvidia-modelopt's quantisers."""

from torch import nn

from train_model.models.quantized import replace_linears
from train_model.quantization.quantizers import insert


def make_trainable(model: nn.Module, names: tuple[str, ...]) -> None:
    """Replace the rounding of the layers ``names`` by modelopt's, in place.

    Weights, ranges and their keys in the state dict stay the same. Training does not change the ranges. The
    gradient passes through the rounding of values inside their range.

    Raises:
        UserError: nvidia-modelopt is not installed.
    """
    layers = [model.get_submodule(name) for name in names]
    ranges = [(layer.input_quantizer._amax, layer.weight_quantizer._amax) for layer in layers]
    replace_linears(model, names, nn.Linear)
    insert(model, names)
    for name, (input_amax, weight_amax) in zip(names, ranges, strict=True):
        layer = model.get_submodule(name)
        layer.input_quantizer.amax = input_amax
        layer.weight_quantizer.amax = weight_amax
