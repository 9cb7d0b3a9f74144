"""The passes of ``trt_code.onnx_surgeon``, one small module each.

A pass takes a model, changes it in place and returns how many times it did. Patterns are found by what
nodes are and how they are connected, never by a name, and a pass that finds nothing leaves the model
as it is.
"""
