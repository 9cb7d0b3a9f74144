"""Serving with NVIDIA Triton: the model repository, a client, and the cost of a million sentences."""
