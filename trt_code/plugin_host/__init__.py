"""A C++ program that calls a plugin library as TensorRT does, and its Python interface."""
