"""Captures a one-pass or iterative network once per shape bucket and replays it.

The encoder, which ends with the predicted lengths, and the decoder are graphs of their own. Between
the two, the host reads one number, the longest length, and picks a decoder whose canvas is just wide
enough: a wider one changes nothing at the real positions, since the decoder's convolutions are causal,
its attention hides padding, and the CRF keeps its state over padding. On the original's canvas there is
nothing to pick, and both are one graph. The decoder of an iterative network is replayed once per pass, on
canvases that the host makes. All graphs share one memory pool and run in turn.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from train_model.data.dictionary import PAD
from train_model.models.canvas import PER_SOURCE_TOKEN, canvas_width, initial_canvas
from train_model.models.hypotheses import Found
from train_model.models.refinement import Refinement
from trt_code.cuda_graph.capture import WARM_UPS, Captured, capture
from trt_code.cuda_graph.network import FusedNetwork
from trt_code.cuda_graph.plain import PlainNetwork
from trt_code.cuda_graph.streams import own_stream
from trt_code.runners.base import Output
from trt_code.runners.buckets import batch_bucket, length_bucket
from trt_code.runners.one_pass.several_lengths import translate_lengths
from trt_code.runners.timing import device_ms
from trt_code.runners.turns import Turns

_ONE_PASS = Refinement()


class _Inputs:
    """The input memory of one source bucket: tokens and limits, which one copy to the device fills."""

    def __init__(self, batch: int, length: int, device: torch.device) -> None:
        def views(memory: Tensor) -> tuple[Tensor, Tensor]:
            return memory[:-batch].view(batch, length), memory[-batch:]

        self._host = torch.empty(batch * (length + 1), dtype=torch.int64, pin_memory=True)
        self._device = torch.empty_like(self._host, device=device)
        self._host_tokens, self._host_limits = (x.numpy() for x in views(self._host))
        self.tokens, self.limits = views(self._device)
        self.host_lengths = torch.empty((batch,), dtype=torch.int64, pin_memory=True)
        self.fill(np.empty((0, length), np.int64), np.empty(0, np.int64))

    def fill(self, src_tokens: np.ndarray, limits: np.ndarray) -> None:
        batch, length = src_tokens.shape
        self._host_tokens.fill(PAD)
        self._host_tokens[:batch, :length] = src_tokens
        self._host_limits.fill(2)  # a row that only pads the batch must not widen the canvas
        self._host_limits[:batch] = limits
        self._device.copy_(self._host, non_blocking=True)


class GraphedNetwork:
    """A network that takes any batch; safe to call from several threads, which then take turns.

    Args:
        network: what to run.
        device: its GPU.
        canvas: ``cut`` decodes on the narrowest canvas that holds the longest predicted length,
            ``full`` on the original's, twice the source.
        refinement: of an iterative network, with the canvas ``cut``.
        capacity: the number of graphs to keep, at least 2; the least recently used one is dropped.
    """

    def __init__(
        self,
        network: FusedNetwork | PlainNetwork,
        device: torch.device,
        canvas: Literal["cut", "full"] = "cut",
        refinement: Refinement = _ONE_PASS,
        capacity: int = 96,
    ) -> None:
        if capacity < 2:
            raise ValueError("capacity is 2 or more: an encoder and its decoder run together")
        self._network, self._device, self._canvas = network, device, canvas
        self._refinement, self._capacity = refinement, capacity
        self._turns = Turns()
        self._stream = own_stream(self, device)
        self._reset()

    def twin(self) -> "GraphedNetwork":
        """Return the same network with graphs, memory and a stream of its own."""
        return GraphedNetwork(
            self._network, self._device, self._canvas, self._refinement, self._capacity
        )

    def _reset(self) -> None:
        self._graphs: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, src_tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Translate [B, S] int64 tokens: tokens [B, T] int64 and scores [B, T] float32.

        T is 2 S, as in the original, and at most the decoder's positions, even if the canvas was narrower.

        Raises:
            ValueError: S is more than the network has positions for.
        """
        with self._turn():
            inputs, encoder = self._encoder(src_tokens.shape)
            inputs.fill(src_tokens, self._limits(src_tokens))
            return self._fetch(src_tokens.shape, *self._replay(inputs, encoder))

    def candidates(self, src_tokens: np.ndarray, count: int) -> Found:
        """Translate [B, S] int64 tokens in ``count`` lengths each; only for the canvas ``cut``.

        Raises:
            ValueError: S is more than the network has positions for.
        """
        batch, length = src_tokens.shape
        with self._turn():
            inputs, encoder = self._encoder(src_tokens.shape)
            inputs.fill(src_tokens, self._limits(src_tokens))
            source = encoder.replay()
            self._stream.synchronize()

            def decode(lengths: np.ndarray) -> Output:
                # the decoder's graph reads the lengths where the encoder's wrote them
                padded = np.pad(lengths, (0, len(inputs.tokens) - batch), constant_values=2)
                source.lengths.copy_(torch.from_numpy(padded))
                found = self._decoded(inputs, source, padded)
                return Output(*self._fetch(src_tokens.shape, *found))

            predicted = inputs.host_lengths[:batch].numpy().copy()
            return translate_lengths(predicted, count, self._width(length), decode)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Use the network alone, on its stream."""
        with self._turns, torch.inference_mode(), torch.cuda.stream(self._stream):
            try:
                yield
            except BaseException:
                self._reset()  # a graph that failed in capture or replay must not be used again
                raise

    def device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        """Return the milliseconds of each pass from CUDA events; the input is already on the device."""
        with self._turns, torch.inference_mode(), torch.cuda.stream(self._stream):
            inputs, encoder = self._encoder(src_tokens.shape)
            inputs.fill(src_tokens, self._limits(src_tokens))
            times = device_ms(lambda: self._replay(inputs, encoder), repeats + WARM_UPS)
        return times[WARM_UPS:]

    def _width(self, src_length: int) -> int:
        return canvas_width(src_length, self._network.config.max_target_positions)

    def _limits(self, src_tokens: np.ndarray) -> np.ndarray:
        """Return the longest allowed target [B] of each sentence, as ``predict_length`` computes it."""
        limits = np.full(len(src_tokens), self._width(src_tokens.shape[1]), dtype=np.int64)
        if self._network.config.padding_policy == "masked":
            own = (src_tokens != PAD).sum(1)
            limits = np.minimum(limits, PER_SOURCE_TOKEN * np.maximum(own, 1))
        return limits

    def _encoder(self, shape: tuple[int, int]) -> tuple[_Inputs, Captured]:
        batch, length = batch_bucket(shape[0]), shape[1]
        positions = self._network.config.max_source_positions
        if length > positions:
            raise ValueError(f"a source of {length} tokens, and positions for {positions}")
        if not self._network.config.padding_leaks:
            length = length_bucket(length, positions)

        def build() -> tuple[_Inputs, Captured]:
            inputs = _Inputs(batch, length, self._device)
            return inputs, self._capture(lambda: self._encode(inputs))

        return self._kept(("encoder", batch, length), build)

    def _encode(self, inputs: _Inputs) -> Any:
        """Run the encoder, or with the full canvas the whole network."""
        if self._canvas == "full":
            width = self._width(inputs.tokens.shape[1])
            return self._network.translate(inputs.tokens, inputs.limits, width)
        source = self._network.encode(inputs.tokens, inputs.limits)
        inputs.host_lengths.copy_(source.lengths, non_blocking=True)
        return source

    def _replay(self, inputs: _Inputs, encoder: Captured) -> tuple[Tensor, Tensor, Tensor]:
        result = encoder.replay()
        if self._canvas == "full":
            return result
        self._stream.synchronize()
        return self._decoded(inputs, result, inputs.host_lengths.numpy())

    def _decoded(
        self, inputs: _Inputs, source: Any, lengths: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode on a canvas just wide enough for ``lengths`` [B], which ``source`` has as well."""
        batch, length = inputs.tokens.shape
        width = length_bucket(int(lengths.max()), self._width(length))
        if self._refinement.rule is not None:
            return self._refine(inputs, source, lengths, width)
        decoder = self._kept(
            ("decoder", batch, length, width),
            lambda: self._capture(lambda: self._decode(source, width)),
        )
        return decoder.replay()

    def _refine(
        self, inputs: _Inputs, source: Any, lengths: np.ndarray, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run all passes of an iterative network's decoder; tokens and scores are on the host."""
        batch, length = inputs.tokens.shape

        def build() -> tuple[Tensor, Captured]:
            canvas = torch.full((batch, width), PAD, device=self._device)
            return canvas, self._capture(lambda: self._network.fill(canvas, source))

        canvas, decoder = self._kept(("decoder", batch, length, width), build)

        def decode(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            canvas.copy_(torch.from_numpy(given))
            tokens, scores = decoder.replay()
            return tokens.cpu().numpy(), scores.cpu().numpy()

        first = initial_canvas(lengths, width)
        tokens, scores = map(torch.from_numpy, self._refinement.run(decode, first))
        return tokens, scores, source.lengths

    def _decode(self, source: Any, width: int) -> tuple[Tensor, Tensor, Tensor]:
        return *self._network.decode(source, width), source.lengths

    def _capture(self, function: Callable[[], Any]) -> Captured:
        return capture(function, self._pool, self._stream)

    def _kept(self, key: tuple, build: Callable[[], Any]) -> Any:
        if key not in self._graphs:
            self._graphs[key] = build()
            if len(self._graphs) > self._capacity:
                self._evict()
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _evict(self) -> None:
        """Drop the oldest graph; with an encoder also its decoders, which read its output memory."""
        kind, *shape = next(iter(self._graphs))
        gone = [
            key
            for key in self._graphs
            if key == (kind, *shape) or (kind == "encoder" and list(key[1:3]) == shape)
        ]
        self._stream.synchronize()
        for key in gone:
            del self._graphs[key]

    def _fetch(
        self, shape: tuple[int, int], tokens: Tensor, scores: Tensor, lengths: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        batch, width = shape[0], self._width(shape[1])
        # start all copies, into pinned memory, before the first wait
        copies = [x[:batch].to("cpu", non_blocking=True) for x in (tokens, scores, lengths)]
        self._stream.synchronize()
        found_tokens, found_scores, found_lengths = (x.numpy() for x in copies)
        computed = min(width, tokens.shape[1])
        real = np.arange(computed) < found_lengths[:, None]
        out_tokens = np.full((batch, width), PAD, dtype=np.int64)
        out_scores = np.zeros((batch, width), dtype=np.float32)
        np.copyto(out_tokens[:, :computed], found_tokens[:, :computed], where=real)
        np.copyto(out_scores[:, :computed], found_scores[:, :computed], where=real)
        return out_tokens, out_scores
