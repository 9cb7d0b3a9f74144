"""Constant folding before inference.

Each fold preserves the network's function, up to rounding in the last bits.
"""

import copy

import torch
from torch import nn

from train_model.models.conv_crf_transformer import ConvCrfTransformer, Decoder
from train_model.models.layers import MultiheadAttention
from train_model.models.quantized import QuantizedLinear
from train_model.ops.fake_quantize import LARGEST, LEAST_SCALE


@torch.no_grad()
def fold(model: ConvCrfTransformer) -> ConvCrfTransformer:
    """Return a copy of ``model`` for inference with its constants folded.

    - the convolution's last linear and the following one are merged (INT8 networks have them merged already);
    - attention's scale goes into the query's projection, unless an INT8 scale gets too small for FP16 by it;
    - the keys and values of all decoder layers come from one projection of the encoder's output;
    - the queries of the attention copy, which depend only on the position, become a table.

    Raises:
        ValueError: the model is folded already.
    """
    if model.decoder.source_projection is not None:
        raise ValueError("the model is folded already")
    model = merge_projections(model)
    for layer in model.decoder.layers:
        _fold_scale(layer.encoder_attn)
    _fold_source_projections(model.decoder)
    _fold_copy_queries(model.decoder)
    return model


@torch.no_grad()
def merge_projections(model: ConvCrfTransformer) -> ConvCrfTransformer:
    """Return a copy for inference in which each convolution's last linear is merged into the next one."""
    model = copy.deepcopy(model).eval()
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        if layer.conv.linear2 is not None:
            layer.linear2 = _compose(layer.conv.linear2, layer.linear2)
            layer.conv.linear2 = None
    return model


def _compose(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Return the linear layer of ``second`` after ``first``; multiplied in FP64."""
    composed = _empty_linear(first, first.in_features, second.out_features)
    weight, bias = second.weight.double(), second.bias.double()
    composed.weight.copy_(weight @ first.weight.double())
    composed.bias.copy_(weight @ first.bias.double() + bias)
    return composed


def _empty_linear(like: nn.Linear, in_features: int, out_features: int) -> nn.Linear:
    return nn.Linear(in_features, out_features, dtype=like.weight.dtype, device=like.weight.device)


def _fold_scale(attention: MultiheadAttention) -> None:
    projection, scale = attention.q_proj, attention.scale
    if isinstance(projection, QuantizedLinear):
        amax = projection.weight_quantizer._amax * scale
        if amax.min() < LEAST_SCALE * LARGEST:  # it would lose digits in FP16
            return
        projection.weight_quantizer._amax.copy_(amax)
    projection.weight.mul_(scale)
    projection.bias.mul_(scale)
    attention.scale = 1.0


def _fold_source_projections(decoder: Decoder) -> None:
    projections = [
        projection
        for layer in decoder.layers
        for projection in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
    ]
    if not _read_alike(projections):
        return
    decoder.source_projection = _concatenate(projections)
    for layer in decoder.layers:
        layer.encoder_attn.k_proj = layer.encoder_attn.v_proj = None


def _read_alike(projections: list[nn.Linear]) -> bool:
    """Return whether all read their input in FP32, or all in INT8 with the same scale."""
    quantized = [p for p in projections if isinstance(p, QuantizedLinear)]
    scales = {p.input_quantizer.amax.item() for p in quantized}
    return not quantized or (len(quantized) == len(projections) and len(scales) == 1)


def _concatenate(projections: list[nn.Linear]) -> nn.Linear:
    """Return one linear layer that computes the concatenated outputs of all."""
    first = projections[0]
    rows = sum(p.out_features for p in projections)
    if isinstance(first, QuantizedLinear):
        whole = QuantizedLinear(first.in_features, rows).to(first.weight.device, first.weight.dtype)
        whole.input_quantizer = first.input_quantizer
        amax = torch.cat([p.weight_quantizer._amax for p in projections])
        whole.weight_quantizer._amax.copy_(amax)
    else:
        whole = _empty_linear(first, first.in_features, rows)
    whole.weight.copy_(torch.cat([p.weight for p in projections]))
    whole.bias.copy_(torch.cat([p.bias for p in projections]))
    return whole


def _fold_copy_queries(decoder: Decoder) -> None:
    if decoder.copy_attn is None or decoder.embed_positions is None:
        return
    decoder.copy_queries = decoder.copy_attn(decoder.embed_positions.vectors)
