"""The project's operators as ONNX sees them, one file each: translation and reference functions.

``TRANSLATIONS`` goes to ``torch.onnx.export(custom_translation_table=...)``. ``FUNCTIONS`` maps names to
the model-local functions that let any ONNX runtime run the nodes; ``EXPORTED`` names those that an
exported file carries, the others stand for forms that only the surgeon writes.
"""

import torch

import train_model.ops  # noqa: F401  registers torch.ops.lite
from onnx_export.symbols import crf_decode, dynamic_conv, fake_quantize, layer_norm, top_k
from onnx_export.symbols.domain import DOMAIN, VERSION

TRANSLATIONS = {
    torch.ops.lite.dynamic_conv.default: dynamic_conv.translate,
    torch.ops.lite.crf_decode.default: crf_decode.translate,
    torch.ops.lite.fake_quantize.default: fake_quantize.translate,
}
EXPORTED = ("LiteDynamicConv", "LiteCrfDecode")
FUNCTIONS = {
    script.name: script.to_function_proto()
    for script in (
        dynamic_conv.LiteDynamicConv,
        dynamic_conv.LiteDynamicConvFused,
        dynamic_conv.LiteDynamicConvFusedMask,
        crf_decode.LiteCrfDecode,
        layer_norm.LiteLayerNorm,
        layer_norm.LiteLayerNormResidual,
        top_k.LiteTopK,
    )
}

__all__ = ["DOMAIN", "EXPORTED", "FUNCTIONS", "TRANSLATIONS", "VERSION"]
