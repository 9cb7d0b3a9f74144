"""From a checkpoint to one ONNX file that any ONNX runtime can run, and the proof that it is the same."""

from train_model import interrupt

interrupt.silence()
