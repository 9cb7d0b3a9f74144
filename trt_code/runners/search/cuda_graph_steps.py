"""Beam search with the steps in PyTorch, each shape's step captured in a CUDA graph once.

A step is a hundred small kernels, so launching them one by one costs more than running them. A graph reads
and writes fixed memory: its inputs are copied there, and its last kernels put the new state where the next
replay reads it.
"""

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from train_model.data.dictionary import PAD
from train_model.models.checkpoint import load_checkpoint
from train_model.models.incremental import EncoderHalf, IncrementalDecoder, StepHalf
from trt_code.runners.base import Unavailable
from trt_code.runners.search import SearchRunner
from trt_code.runners.search.torch_steps import TorchSearchRunner
from trt_code.runners.torch_runner import DTYPES

CAPACITY = 96
"""Graphs that are kept; the one unused for longest goes first."""
WARM_UPS = 2
LENGTH_STEP = 16
"""Sources are padded to a multiple of this, so that few lengths occur."""
ROOM_STEP = 32
"""The state's room grows by this: on a GPU a wider state costs less than one more graph."""


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Load the checkpoint and cast it; see ``trt_code.runners.create``."""
    if device != "cuda" or not torch.cuda.is_available():
        raise Unavailable("CUDA graphs need a CUDA GPU (make doctor)")
    if precision not in DTYPES:
        raise Unavailable(f"PyTorch runs {', '.join(DTYPES)}; {precision} lives in the ONNX graph")
    held_before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = load_checkpoint(model_files.checkpoint).model.to(device, DTYPES[precision])
    encoder, step = EncoderHalf(model).eval(), StepHalf(model).eval()
    # Padding changes nothing where the network masks it; other checkpoints get exact lengths.
    widest = model.config.max_source_positions if model.config.padding_policy == "masked" else 0
    halves = GraphedHalves(lambda: encoder, lambda: step, CudaCapture(), widest)
    decoder = IncrementalDecoder(
        halves.encode,
        halves.step,
        lambda rows, room: list(model.decoder.state_shapes(rows, room).values()),
        model.config.tgt_vocab,
        model.config.max_target_positions,
        DTYPES[precision],
        ROOM_STEP,
    )
    return TorchSearchRunner(
        "cuda-graph",
        precision,
        device,
        decoder,
        model.config.max_source_positions,
        lambda: torch.cuda.max_memory_allocated() - held_before,
        beam,
        len_penalty,
    )


class GraphedHalves:
    """The two halves of a network on a GPU, called like :class:`EncoderHalf` and :class:`StepHalf`.

    What a call returns is overwritten by the next of the same shapes.

    Args:
        encoder: gives what computes the encoder, for one set of shapes.
        step: gives what computes a step, for one set of shapes.
        capture: makes of input memory and a function of it what computes the function again.
        widest: sources are padded to few widths, and none beyond this; 0 leaves them as they are.
    """

    def __init__(
        self,
        encoder: Callable[[], Callable],
        step: Callable[[], Callable],
        capture: Callable[[list[Tensor], Callable], Callable[[], Any]],
        widest: int,
    ) -> None:
        self._encoder, self._step, self._capture = encoder, step, capture
        self._widest = widest
        self._captured: collections.OrderedDict[Hashable, _Captured] = collections.OrderedDict()

    def encode(self, src_tokens: Tensor) -> list[Tensor]:
        """As :class:`EncoderHalf` is called; the source may come back wider than it was."""
        length = src_tokens.shape[1]
        wide = min(-(-length // LENGTH_STEP) * LENGTH_STEP, self._widest)
        if wide > length:
            src_tokens = F.pad(src_tokens, (0, wide - length), value=PAD)
        captured = self._get(
            ("encode", src_tokens.shape), lambda: ([torch.zeros_like(src_tokens)], self._encoder())
        )
        captured.fill([src_tokens])
        return captured.replay()

    def step(
        self,
        tokens: Tensor,
        parents: Tensor,
        position: Tensor,
        source: Sequence[Tensor],
        state: Sequence[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """As :class:`StepHalf` is called."""
        inputs = [tokens, parents, position, *source, *state]
        key = ("step", tokens.shape, source[0].shape, *(tensor.shape for tensor in state))
        first_state = 3 + len(source)

        def make() -> tuple[list[Tensor], Callable]:
            compute = self._step()

            def function(*tensors: Tensor) -> Tensor:
                source, own = tensors[3:first_state], tensors[first_state:]
                logprobs, new_state = compute(*tensors[:3], source, own)
                for old, new in zip(own, new_state, strict=True):
                    old.copy_(new)
                return logprobs

            # its own memory for all but the source, which stays where the encoder's graph leaves it
            memory = [
                tensor if 3 <= index < first_state else torch.zeros_like(tensor)
                for index, tensor in enumerate(inputs)
            ]
            return memory, function

        captured = self._get(key, make)
        captured.fill(inputs)
        return captured.replay(), captured.inputs[first_state:]

    def _get(self, key: Hashable, make: Callable[[], tuple[list[Tensor], Callable]]) -> "_Captured":
        if key not in self._captured:
            if len(self._captured) == CAPACITY:
                self._captured.popitem(last=False)
            inputs, function = make()
            self._captured[key] = _Captured(inputs, self._capture(inputs, function))
        self._captured.move_to_end(key)
        return self._captured[key]


class CudaCapture:
    """Captures functions in CUDA graphs, on one stream and with their memory in one pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, inputs: list[Tensor], function: Callable) -> Callable[[], Any]:
        """What replays ``function`` on what lies in ``inputs`` then, and gives its result."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):  # algorithms are chosen and lazily loaded code arrives here
                function(*inputs)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)

        def replay() -> Any:
            graph.replay()
            return result

        # what the function holds, an engine's context among it, has to live as long as the graph
        replay.function = function
        return replay


class _Captured:
    """The memory that a captured function reads, and what computes it again."""

    def __init__(self, inputs: list[Tensor], replay: Callable[[], Any]) -> None:
        self.inputs, self.replay = inputs, replay

    def fill(self, inputs: Sequence[Tensor]) -> None:
        """Copy what is not there already; a step's state usually is."""
        for own, given in zip(self.inputs, inputs, strict=True):
            if own.data_ptr() != given.data_ptr():
                own.copy_(given)
