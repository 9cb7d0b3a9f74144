"""A small exported network as the surgeon patches it, and ONNX Runtime on the result."""

import onnx
import onnxruntime

from onnx_export.reference import with_reference_functions
from onnx_export.session import session_options
from onnx_export.tests.tiny import Exported
from trt_code import onnx_surgeon


def patched(exported: Exported, folder, *flags: str) -> onnx.ModelProto:
    path = folder / "patched.onnx"
    assert onnx_surgeon.main(["--input", str(exported.onnx), "--output", str(path), *flags]) == 0
    return onnx.load(path)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        with_reference_functions(model).SerializeToString(),
        session_options(),
        providers=["CPUExecutionProvider"],
    )
