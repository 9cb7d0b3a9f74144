"""A C++ program that plays TensorRT's part towards a plugin library, and its Python side."""
