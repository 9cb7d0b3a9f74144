"""What TensorRT's ONNX importer refuses, checked on any machine; see ``trt_code.graph_lint``."""
