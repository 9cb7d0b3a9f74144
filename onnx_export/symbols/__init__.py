"""The project's operators as ONNX sees them, one file each: translation and reference function.

``TRANSLATIONS`` goes to ``torch.onnx.export(custom_translation_table=...)``; ``FUNCTIONS`` maps an
``op_type`` to the model-local function that lets any ONNX runtime run the node.
"""

import torch

import train_model.ops  # noqa: F401  registers torch.ops.lite
from onnx_export.symbols import crf_decode, dynamic_conv
from onnx_export.symbols.domain import DOMAIN, VERSION

TRANSLATIONS = {
    torch.ops.lite.dynamic_conv.default: dynamic_conv.translate,
    torch.ops.lite.crf_decode.default: crf_decode.translate,
}
FUNCTIONS = {
    script.name: script.to_function_proto()
    for script in (dynamic_conv.LiteDynamicConv, crf_decode.LiteCrfDecode)
}

__all__ = ["DOMAIN", "FUNCTIONS", "TRANSLATIONS", "VERSION"]
