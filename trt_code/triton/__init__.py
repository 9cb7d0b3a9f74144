"""Serving with NVIDIA Triton: the model repository, a client, and what a million sentences cost."""
