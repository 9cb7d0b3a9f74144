"""Skips the tests that need what this machine has not, and says so; keeps CPU arithmetic repeatable."""

import importlib.util
import os

# The networks of the tests are too small to gain from threads, and how work is split among them decides
# how sums are rounded. Also for the processes that tests start, so before PyTorch is imported.
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
    """Mark the items whose markers name something that is missing."""
    for marker, (find, reason) in REASONS.items():
        if not find():
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))
