"""The ONNX domain of the project's operators."""

from onnxscript import values

DOMAIN = "lite"
VERSION = 1
LITE = values.Opset(DOMAIN, VERSION)
