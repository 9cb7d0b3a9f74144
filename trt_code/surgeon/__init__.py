"""The passes of ``trt_code.onnx_surgeon``, one small module each.

A pass takes a model, changes it in place and returns the number of changes. It finds patterns by the types
and connections of nodes, never by names. If it finds nothing, it leaves the model unchanged.
"""
