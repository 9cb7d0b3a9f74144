"""Checks for graphs that TensorRT's ONNX importer refuses, on any machine; see ``trt_code.graph_lint``."""
