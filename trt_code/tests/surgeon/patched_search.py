"""The halves of a small autoregressive network, patched."""

import onnx
import torch

from onnx_export.paths import half_path
from onnx_export.reference import with_reference_functions
from onnx_export.step_session import StepSession
from trt_code import onnx_surgeon
from trt_code.graph_lint import lint


def patched(exported, folder, precision):
    """Patch both halves; return the step's path. Fails for graphs that TensorRT would refuse."""
    output = folder / f"model.{precision}.onnx"
    arguments = ["--input", str(exported), "--output", str(output), "--precision", precision]
    assert onnx_surgeon.main(arguments) == 0
    for file in (output, half_path(output, "encoder")):
        assert not lint(onnx.load(file))
    return output


def runnable(path):
    """Open both patched files, with reference functions for the plugins."""
    for file in (path, half_path(path, "encoder")):
        onnx.save(with_reference_functions(onnx.load(file)), file)
    return StepSession(path, threads=1).decoder()


def forced(decoder, source, words):
    """Return the log-probabilities of every step for the hypotheses ``words`` [B, beam, T]."""
    decoder.begin(source, words.shape[1], words.shape[2])
    parents = torch.arange(words.shape[1]).expand(words.shape[:2]).contiguous()
    with torch.inference_mode():
        steps = [decoder.step(words[..., t].contiguous(), parents) for t in range(words.shape[2])]
    return torch.stack([step.float() for step in steps])
