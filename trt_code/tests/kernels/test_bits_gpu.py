"""Equal inputs give equal bits: whole networks, run twice and replayed from a CUDA graph.

``test_kernels_gpu`` and ``kernels/tests/kernel_driver.cu`` test the same for single kernels.
"""

import numpy as np
import pytest
import torch

from train_model.model_folder import ModelFolder
from train_model.models.checkpoint import save_checkpoint
from train_model.ops import load_cuda_library
from train_model.tests.networks import follows_its_source, step_by_step
from trt_code.cuda_graph.capture import capture
from trt_code.cuda_graph.network import FusedNetwork
from trt_code.runners import create
from trt_code.tests.cuda_graph.networks import ONE_KERNEL, model
from trt_code.text.batching import pad

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
]
TIMES = 20
BATCH, SOURCE, CANVAS = 8, 16, 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, ONE_KERNEL], ids=["operators", "one kernel"])
@torch.inference_mode()
def test_a_replay_gives_the_bits_of_a_plain_launch(options, dtype):
    device = torch.device("cuda")
    network = FusedNetwork(model(**options), dtype, device)
    tokens = torch.randint(4, 40, (BATCH, SOURCE), device=device)
    tokens[3:, 9:] = 1
    limits = ((tokens != 1).sum(1) * 2).clamp(max=CANVAS)

    def run():
        source = network.encode(tokens, limits)
        return *network.decode(source, CANVAS), source.lengths

    plain = [x.clone() for x in run()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    captured = capture(run, torch.cuda.graph_pool_handle(), stream)
    for _ in range(TIMES):
        assert all(a.equal(b) for a, b in zip(run(), plain, strict=True))
    torch.cuda.synchronize()
    for _ in range(TIMES):
        with torch.cuda.stream(stream):
            replayed = captured.replay()
        stream.synchronize()
        assert all(a.equal(b) for a, b in zip(replayed, plain, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("beam", [1, 4])
def test_a_search_repeats_its_bits(beam, precision, tmp_path):
    network = follows_its_source(step_by_step(max_source_positions=24, max_target_positions=16))
    files = ModelFolder(
        "search", tmp_path / "checkpoint.pt", architecture="transformer_multibranch_v2"
    )
    save_checkpoint(files.checkpoint, network, network.config)
    random = np.random.default_rng(7)
    batches = [
        pad([[0, *random.integers(4, 30, length), 2] for length in random.integers(1, 13, size)])
        for size in (1, 3, 16)
    ]
    with create("cuda-graph", files, precision, "cuda", threads=1, beam=beam) as runner:
        first = [runner.run(batch) for batch in batches]
        for _ in range(TIMES):
            for batch, expected in zip(batches, first, strict=True):
                output = runner.run(batch)
                np.testing.assert_array_equal(output.tokens, expected.tokens)
                np.testing.assert_array_equal(output.scores, expected.scores)
