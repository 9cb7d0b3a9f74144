"""The smallest ONNX-attribute-to-plugin-field case: one node, one plugin, four kinds of attribute."""
