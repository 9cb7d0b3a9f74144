"""The TensorRT runner's CUDA half on a real GPU: memory, copies, graph capture and replay, events.

TensorRT itself stays a mock (no engine is run): its context puts two strided copies and a memset on the
stream, so that the tokens are [src, src] and the scores 0. cuda-python and the GPU are real.
"""

import json

import numpy as np
import pytest
import torch

from train_model.cli import UserError
from trt_code.runners.one_pass.trt_runner import TrtRunner
from trt_code.tests.engine import mock_tensorrt
from trt_code.tests.engine.plans import PLAN, build, tokens

pytestmark = pytest.mark.gpu
SCRATCH = 1 << 30  # bytes


class Cudart:
    """``cuda.bindings.runtime``; every address counts as device memory."""

    def __init__(self, runtime):
        self._runtime = runtime
        self.memory = AnyAddress()  # the mock checks that addresses are in it
        self.launches = 0

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        return self._runtime.cudaGraphLaunch(graph, stream)


class AnyAddress:
    def __contains__(self, address):
        return address != 0


@pytest.fixture
def cudart(monkeypatch, tmp_path):
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    monkeypatch.chdir(tmp_path)
    cudart = Cudart(runtime)
    trt = mock_tensorrt.install(monkeypatch, cudart)

    def enqueue(context, stream):
        batch, length = context.get_tensor_shape("src_tokens")
        addresses = context._addresses
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        row = length * 8
        for half in (0, 1):
            target = addresses["output_tokens"] + half * row
            (status,) = runtime.cudaMemcpy2DAsync(
                target, 2 * row, addresses["src_tokens"], row, row, batch, kind, stream
            )
            assert status == runtime.cudaError_t.cudaSuccess
        size = batch * 2 * length * 4
        (status,) = runtime.cudaMemsetAsync(addresses["output_scores"], 0, size, stream)
        assert status == runtime.cudaError_t.cudaSuccess

    trt.enqueue = enqueue
    build()
    return cudart


def test_copies_graphs_and_shapes(cudart, monkeypatch):
    # Small buffers share pages that are already allocated; scratch of this size needs new ones.
    monkeypatch.setattr(mock_tensorrt.ICudaEngine, "device_memory_size_v2", SCRATCH)
    with TrtRunner(PLAN, "fp16") as runner:
        for source in (tokens(2, 3), tokens(2, 3) + 7, tokens(16, 32), tokens(64, 127)):
            output = runner.run(source)
            np.testing.assert_array_equal(output.tokens, np.concatenate([source, source], 1))
            np.testing.assert_array_equal(
                output.scores, np.zeros((len(source), 2 * source.shape[1]))
            )
        assert cudart.launches == 4
        # other processes may have freed memory meanwhile
        assert runner.peak_memory() >= SCRATCH / 2


def test_device_time_is_between_zero_and_the_hosts(cudart):
    with TrtRunner(PLAN, "fp16") as runner:
        timing = runner.time(tokens(64, 127), repeats=20)
    assert len(timing.device_ms) == 20
    assert 0 < np.median(timing.device_ms) < np.median(timing.host_ms)


def test_outside_the_profile_nothing_is_launched(cudart):
    with TrtRunner(PLAN, "fp16") as runner, pytest.raises(UserError, match="outside the engine"):
        runner.run(tokens(65, 3))
    assert cudart.launches == 0


def test_the_plan_names_this_gpu(cudart):
    written = json.loads(PLAN.with_name(PLAN.name + ".json").read_text())["gpu"]
    assert written["name"] == torch.cuda.get_device_name()
    assert written["compute_capability"] == "{}.{}".format(*torch.cuda.get_device_capability())
