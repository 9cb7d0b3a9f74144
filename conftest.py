"""Skips tests whose requirements this machine lacks, with the reason; makes CPU arithmetic repeatable."""

import importlib.util
import os

# The tests' networks are too small to gain from threads, and the number of threads changes how sums are
# rounded. Set before PyTorch is imported, and in the environment so that child processes get it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from trt_code.doctor import find_headers

REASONS = {
    "gpu": (torch.cuda.is_available, "no CUDA GPU"),
    "fairseq": (lambda: importlib.util.find_spec("fairseq"), "no fairseq (make env)"),
    "tensorrt_headers": (find_headers, "no TensorRT headers (make doctor says how to get them)"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the items whose markers name a missing requirement."""
    for marker, (find, reason) in REASONS.items():
        if not find():
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))
