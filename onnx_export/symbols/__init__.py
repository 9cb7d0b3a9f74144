"""The project's operators as ONNX sees them, one file each: declaration, translation, reference functions.

Every module here that declares an ``OPERATOR`` is found; nothing else lists them. ``OPERATORS`` maps the
``op_type`` to the declaration. ``TRANSLATIONS`` goes to ``torch.onnx.export(custom_translation_table=...)``:
the ``translate`` of each module translates ``torch.ops.lite.<module name>``. ``FUNCTIONS`` maps names to the
model-local functions that let any ONNX runtime run the nodes.
"""

import importlib
import pkgutil

import torch

import train_model.ops  # noqa: F401  registers torch.ops.lite
from onnx_export.symbols.domain import DOMAIN, VERSION
from onnx_export.symbols.schema import Operator

_MODULES = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
}
TRANSLATIONS = {
    getattr(torch.ops.lite, name).default: module.translate
    for name, module in _MODULES.items()
    if hasattr(module, "translate")
}
OPERATORS: dict[str, Operator] = {
    module.OPERATOR.name: module.OPERATOR
    for module in _MODULES.values()
    if hasattr(module, "OPERATOR")
}
FUNCTIONS = {
    name: function
    for operator in OPERATORS.values()
    for name, function in operator.functions.items()
}
# The functions that an exported file contains; only the surgeon writes the other nodes.
EXPORTED = tuple(
    module.OPERATOR.name
    for module in _MODULES.values()
    if hasattr(module, "OPERATOR") and hasattr(module, "translate")
)

__all__ = ["DOMAIN", "EXPORTED", "FUNCTIONS", "OPERATORS", "TRANSLATIONS", "VERSION"]
