"""Threads that launch one kernel at different sizes at the same time do not disturb each other.

A kernel's limit of dynamic shared memory belongs to the kernel and not to a launch. The launches of one
case are of one kernel and need different amounts, nearly all of them more than the default limit. The
plugins have the same in ``test_plugins``.
"""

import threading

import pytest
import torch

from train_model.ops import load_cuda_library
from trt_code.tests.kernels.conv_stack_cases import make, on_hopper
from trt_code.tests.kernels.graph_ops_cases import ALL, mask_of, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not load_cuda_library(), reason="the CUDA operators are not built"),
]
CALLS = 1500
lite = torch.ops.lite


def crf_decode(dtype, length):
    emissions, e1, e2 = tensors(dtype, (1, length, 32), (97, 8), (97, 8))
    targets, mask = torch.arange(length * 32, device="cuda").int() % 97, mask_of([length], length)
    targets = targets.view(1, length, 32)
    return lambda: lite.crf_decode(emissions, targets, e1, e2, mask)[1]


def attention(dtype, source):
    query, pairs = tensors(dtype, (1, 5, 128), (1, source, 256))
    mask = mask_of([source], source)
    return lambda: lite.attention(query, pairs, mask, 0, 1)


def dynamic_conv(dtype, kernel):
    x, weight = tensors(dtype, (1, 64, 40), (1, 1, kernel, 40))
    return lambda: lite.dynamic_conv(x, weight, 0)


def dynamic_conv_fused(dtype, kernel):
    x, logits = tensors(dtype, (140, 32, 64), (140, 32, kernel))
    return lambda: lite.dynamic_conv_fused(x, logits, None, 1, kernel, 0)


def self_conv(dtype, kernel):
    channels = 1024 // dtype.itemsize
    x, weight = tensors(dtype, (1, 16, channels), (2 * kernel, channels))
    weight = weight * channels**-0.5
    return lambda: lite.self_conv(x, weight, None, 2, kernel, 0, False)


def copy_source(dtype, source):
    queries, keys, table = tensors(dtype, (20, 2048), (1, source, 2048), (9, 2048))
    queries = queries * 2048**-0.5
    lengths, mask = torch.tensor([16], device="cuda"), mask_of([source], source)
    return lambda: lite.copy_source(lengths, 16, queries, keys, keys, mask, table, queries)[0]


def run_together(calls):
    """Run every call CALLS times in a separate thread; results must equal those of single calls."""
    expected = [call().clone() for call in calls]
    torch.cuda.synchronize()
    start, errors = threading.Barrier(len(calls)), []

    def work(call, result):
        try:
            start.wait()
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(CALLS):
                    output = call()
                if not output.equal(result):
                    errors.append("another result than alone")
        except RuntimeError as error:
            errors.append(str(error))

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(calls, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert not errors


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(
    ("operator", "sizes"),
    [
        (crf_decode, (3, 20, 45, 64)),
        (attention, (33, 64, 96, 128)),
        (dynamic_conv, (160, 200, 255)),
        (dynamic_conv_fused, (180, 210, 255)),
        (self_conv, (31, 45, 55)),
        (copy_source, (5, 17, 50)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_operators_of_different_lengths(operator, sizes, dtype):
    run_together([operator(dtype, size) for size in sizes])


def test_a_product_is_timed_while_another_thread_replays_its_graph():
    """Timing captures, and must not do so on a stream of PyTorch's pool: that has 32 streams for all."""
    x, weight = tensors(torch.float16, (90, 64), (96, 64))
    stream, graph, stop, errors = torch.cuda.Stream(), torch.cuda.CUDAGraph(), [], []
    with torch.cuda.graph(graph, stream=stream):
        x.relu()

    def replay():
        try:
            with torch.cuda.stream(stream):
                while not stop:
                    graph.replay()
                    stream.synchronize()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=replay)
    thread.start()
    for rows in range(1, 90):  # each number of rows is timed once
        lite.linear(x[:rows], weight, None, None, False, False)
    stop.append(True)
    thread.join()
    assert not errors


@on_hopper
@pytest.mark.parametrize("source", [0, 11])
def test_stacks_of_different_lengths(source):
    calls = []
    for length in (16, 33, 48, 64):
        stack, _, arguments = make(torch.float16, 2, length, 4, 512, source)
        calls.append(lambda stack=stack, arguments=arguments: stack(*arguments))
    run_together(calls)
