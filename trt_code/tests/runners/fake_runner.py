"""A mock runner that returns its input as the translation, or fails as a test demands."""

import numpy as np

from trt_code.runners.base import Output, Runner, Unavailable
from trt_code.runners.spec import PRECISIONS, Request, RunnerSpec
from trt_code.text.batching import PAD

fault = ""
"""The fault: "", "unavailable", "raises", "nan" or "wrong"."""


def create(request: Request) -> "FakeRunner":
    if fault == "unavailable" or request.precision == "int8":
        raise Unavailable("the fake is not here today")
    return FakeRunner(request.precision, request.device)


class FakeRunner(Runner):
    def __init__(self, precision: str = "fp32", device: str = "cpu"):
        super().__init__("fake", precision, device)
        self.max_source = 24
        self.shapes: list[tuple[int, int]] = []

    def run(self, src_tokens: np.ndarray) -> Output:
        self.shapes.append(src_tokens.shape)
        if fault == "raises":
            raise RuntimeError("out of\nmemory")
        tokens = np.where(src_tokens == PAD, PAD, 5) if fault == "wrong" else src_tokens.copy()
        scores = np.full(tokens.shape, np.nan if fault == "nan" else -1, np.float32)
        return Output(tokens, scores)

    def peak_memory(self) -> int:
        return 1


SPECS = [
    RunnerSpec(
        "fake",
        lambda request: create(request),
        {"cpu": PRECISIONS, "cuda": PRECISIONS},
    )
]
