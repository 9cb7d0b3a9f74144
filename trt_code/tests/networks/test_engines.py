"""TensorRT for RTX builds an engine of every architecture in every precision; no engine is run."""

import functools
import itertools

import pytest

from onnx_export.paths import half_path
from train_model.models.architectures import ARCHITECTURES
from trt_code import build_engine
from trt_code.engine.tensorrt_api import RTX
from trt_code.tests.engine import real_tensorrt
from trt_code.tests.networks.cells import ENGINES
from trt_code.tests.networks.small_model import SmallModel

IN_EVERY_RUN = (("cmlm_transformer", "fp16"),)
BUILDS = [
    pytest.param(*build, marks=() if build in IN_EVERY_RUN else pytest.mark.slow)
    for build in itertools.product(ARCHITECTURES, ENGINES)
]
PROFILE = ["--min", "1x1", "--opt", "4x6", "--max", "8x20"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    real_tensorrt.tensorrt(RTX)

    @functools.cache
    def made(architecture: str) -> SmallModel:
        return SmallModel(architecture, tmp_path_factory.mktemp(architecture))

    return made


@pytest.mark.parametrize(("architecture", "precision"), BUILDS)
def test_an_engine_is_built(model, architecture, precision, monkeypatch):
    monkeypatch.setenv("TENSORRT", "rtx")
    small = model(architecture)
    decoder = small.graph(precision, plugins="none")
    graphs = [decoder]
    if small.files.family != "one-pass":
        graphs.append(half_path(decoder, "encoder"))
    for graph in graphs:
        plan = graph.with_suffix(".plan")
        build_engine.main(["--onnx", str(graph), "--output", str(plan), *PROFILE])
        assert plan.stat().st_size > 0
