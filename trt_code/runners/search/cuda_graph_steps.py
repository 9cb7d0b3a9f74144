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
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from trt_code.runners.base import Unavailable
from trt_code.runners.search import SearchRunner
from trt_code.runners.search.torch_steps import TorchSearchRunner
from trt_code.runners.torch_runner import DTYPES

CAPACITY = 96
"""Graphs that are kept; the one unused for longest goes first."""
WARM_UPS = 2
LENGTH_STEP = 8
"""Sources are padded to a multiple of this, so that few lengths occur."""


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
    halves = GraphedHalves(model)
    decoder = IncrementalDecoder(
        halves.encode,
        halves.step,
        lambda rows, room: list(model.decoder.state_shapes(rows, room).values()),
        model.config.tgt_vocab,
        model.config.max_target_positions,
        DTYPES[precision],
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
    """

    def __init__(self, model: TransformerMultibranch) -> None:
        self._encoder, self._step = EncoderHalf(model).eval(), StepHalf(model).eval()
        # Padding changes nothing where the network masks it; other checkpoints get exact lengths.
        self._pads = model.config.padding_policy == "masked"
        self._limit = model.config.max_source_positions
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._captured: collections.OrderedDict[Hashable, _Captured] = collections.OrderedDict()

    def encode(self, src_tokens: Tensor) -> list[Tensor]:
        """As :class:`EncoderHalf` is called; the source may come back wider than it was."""
        if self._pads:
            length = src_tokens.shape[1]
            wide = min(-(-length // LENGTH_STEP) * LENGTH_STEP, max(self._limit, length))
            src_tokens = F.pad(src_tokens, (0, wide - length), value=PAD)
        captured = self._get(
            ("encode", src_tokens.shape), lambda: [torch.zeros_like(src_tokens)], self._encoder
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

        def function(*tensors: Tensor) -> Tensor:
            tokens, parents, position = tensors[:3]
            own = tensors[first_state:]
            logprobs, new_state = self._step(tokens, parents, position, tensors[3:first_state], own)
            for old, new in zip(own, new_state, strict=True):
                old.copy_(new)
            return logprobs

        def memory() -> list[Tensor]:
            """Its own for all but the source, which stays where the encoder's graph leaves it."""
            return [
                tensor if 3 <= index < first_state else torch.zeros_like(tensor)
                for index, tensor in enumerate(inputs)
            ]

        captured = self._get(key, memory, function)
        captured.fill(inputs)
        return captured.replay(), captured.inputs[first_state:]

    def _get(
        self, key: Hashable, memory: Callable[[], list[Tensor]], function: Callable
    ) -> "_Captured":
        if key not in self._captured:
            if len(self._captured) == CAPACITY:
                self._captured.popitem(last=False)
            self._captured[key] = _Captured(memory(), function, self._pool, self._stream)
        self._captured.move_to_end(key)
        return self._captured[key]


class _Captured:
    """A graph, the memory it reads and what it leaves its result in."""

    def __init__(
        self, inputs: list[Tensor], function: Callable, pool: Any, stream: torch.cuda.Stream
    ) -> None:
        self.inputs = inputs
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):  # algorithms are chosen and lazily loaded code arrives here
                function(*self.inputs)
            stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool, stream=stream):
                self._result = function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)

    def fill(self, inputs: Sequence[Tensor]) -> None:
        """Copy what is not there already; a step's state usually is."""
        for own, given in zip(self.inputs, inputs, strict=True):
            if own.data_ptr() != given.data_ptr():
                own.copy_(given)

    def replay(self) -> Any:
        self._graph.replay()
        return self._result
