"""Runs each step of a search, including the network, as one CUDA graph.

A step has many small kernels, so single launches cost more than the kernels. A graph reads and
writes fixed memory: the search's tensors keep their addresses, and the last kernels of a step write the new
state to the input of the next replay. Between two steps the host only launches the next step. It learns one
step late that the search is done; the extra step does not change the result.
"""

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from train_model.data.dictionary import PAD
from train_model.models.beam_search import Search
from train_model.models.hypotheses import Found, SearchOptions
from trt_code.cuda_graph.capture import capture
from trt_code.cuda_graph.streams import own_stream

CAPACITY = 24
"""Sets of shapes with graphs to keep; the least recently used is dropped first."""
LENGTH_STEP = 16
"""Sources are padded to a multiple of this, so that few lengths occur."""
ROOM_STEP = 32
"""Tokens by which the state grows: on a GPU a wider state costs less than another graph."""

Capture = Callable[[Callable[[], Any], Callable[[], None]], Callable[[], Any]]


def without_capture(function: Callable[[], Any], prepare: Callable[[], None]) -> Callable[[], Any]:
    """A ``Capture`` that captures nothing: ``function`` itself runs every time."""
    return function


class CudaCapture:
    """Captures functions in CUDA graphs on one stream, with one memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = own_stream(self)

    def __call__(
        self, function: Callable[[], Any], prepare: Callable[[], None]
    ) -> Callable[[], Any]:
        """Return a function that replays ``function`` on fixed memory and returns its result.

        Args:
            function: the function to capture; it first runs a few times.
            prepare: called before each of these runs.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        captured = capture(function, self._pool, self._stream, prepare)
        torch.cuda.current_stream().wait_stream(self._stream)

        def replay() -> Any:
            return captured.replay()

        # the objects that the function holds, such as an engine's context, must outlive the graph
        replay.function = function
        return replay


class GraphedSearch:
    """Beam search over the two halves of a network, which compute on one device.

    Args:
        encoder: returns a function that computes the encoder for one set of shapes, called like
            :class:`train_model.models.incremental.SourceEncoder`.
        step: returns a function that computes a step for one set of shapes and a beam, called like
            ``DecoderStep``; its first result is what ``search.advance`` takes.
        new_state: returns the state's tensors, zeros, for a number of hypotheses and of tokens, which is
            their third size if they grow with the tokens.
        vocab_size: the size of the target vocabulary.
        max_target_positions: the largest number of target tokens.
        capture: turns a function into a replay of it (:class:`CudaCapture`).
        widest: pad sources to multiples of ``LENGTH_STEP`` up to this width; 0 to pad nothing.
        batch_size: rounds a batch size up, so that few sizes occur.
        search: the class of the search's own state.
    """

    def __init__(
        self,
        encoder: Callable[[], Callable],
        step: Callable[[int], Callable],
        new_state: Callable[[int, int], Sequence[Tensor]],
        vocab_size: int,
        max_target_positions: int,
        capture: Capture,
        widest: int,
        batch_size: Callable[[int], int] = int,
        search: type[Search] = Search,
    ) -> None:
        self.encoder, self.step, self.capture = encoder, step, capture
        self.new_state, self.new_search = new_state, search
        self.vocab_size, self.max_target_positions = vocab_size, max_target_positions
        self._widest, self._batch_size = widest, batch_size
        self._lanes: collections.OrderedDict[Hashable, _Lane] = collections.OrderedDict()

    @torch.inference_mode()
    def __call__(self, src_tokens: Tensor, options: SearchOptions) -> Found:
        """As :func:`train_model.models.beam_search.search`, without ``no_repeat_ngram``."""
        if options.no_repeat_ngram:
            raise ValueError("no_repeat_ngram needs shapes that change; search without graphs")
        batch, length = src_tokens.shape
        longest = options.max_length(length, self.max_target_positions)
        wide = min(-(-length // LENGTH_STEP) * LENGTH_STEP, self._widest)
        if wide > length:
            src_tokens = F.pad(src_tokens, (0, wide - length), value=PAD)
        if more := self._batch_size(batch) - batch:
            # copies of a sentence end when it ends
            src_tokens = torch.cat([src_tokens, src_tokens[:1].expand(more, -1)])
        key = (src_tokens.shape, longest, options)
        lane = self._lanes.pop(key, None)
        if lane is None:
            if len(self._lanes) >= CAPACITY:
                self._lanes.popitem(last=False)
            lane = _Lane(self, src_tokens, longest, options)
        found = lane.search(src_tokens)
        self._lanes[key] = lane  # only now: a lane that failed must not be reused
        return found.first(batch)


class _Lane:
    """The graphs of one set of shapes, and their shared memory.

    The captured functions refer to the memory, not to the lane. So no reference cycle keeps a dropped lane
    alive.
    """

    def __init__(
        self, graphs: GraphedSearch, src_tokens: Tensor, longest: int, options: SearchOptions
    ) -> None:
        batch, device = len(src_tokens), src_tokens.device
        self._graphs, self._longest, self._beam = graphs, longest, options.beam
        self._rows = batch * options.beam
        self._search = search = graphs.new_search(
            batch, graphs.vocab_size, longest, options, device
        )
        self._done = _LateFlag(search.done)
        self._src_tokens = own_tokens = src_tokens.clone()
        self._source: list[Tensor] = []
        self._states: dict[int, list[Tensor]] = {}
        self._steps: dict[int, Callable[[], Any]] = {}
        encoder = graphs.encoder()

        def begin() -> list[Tensor]:
            search.restart()
            return encoder(own_tokens)

        self._begin = graphs.capture(begin, _nothing)

    def search(self, src_tokens: Tensor) -> Found:
        """Translate sources of the lane's shape."""
        self._src_tokens.copy_(src_tokens)
        self._source[:] = self._begin()
        self._done.restart()
        room = 0
        for position in range(self._longest + 1):
            if position == room:
                room = self._grow(room)
            self._steps[room]()
            if self._done.after_replay():
                break
        return self._search.found()

    def _grow(self, room: int) -> int:
        """Return the next larger room, after a copy of the state into it."""
        before = self._states.get(room, [])
        room = min(room + ROOM_STEP, self._longest + 1)
        if room not in self._states:
            self._states[room] = list(self._graphs.new_state(self._rows, room))
            self._steps[room] = self._capture_step(self._states[room])
        for index, tensor in enumerate(self._states[room]):
            tensor.zero_()  # an old NaN would stay NaN even with an attention weight of 0
            if before:
                tensor[:, :, : before[index].shape[2]] = before[index]
        return room

    def _capture_step(self, state: list[Tensor]) -> Callable[[], Any]:
        compute, search = self._graphs.step(self._beam), self._search
        source, done = self._source, self._done

        def step() -> None:
            logprobs, new_state = compute(search.tokens, search.parents, search.step, source, state)
            for old, new in zip(state, new_state, strict=True):
                old.copy_(new)  # no effect if the state was written in place
            search.advance(logprobs)
            done.publish()

        with search.kept():
            return self._graphs.capture(step, search.restart)


class _LateFlag:
    """A device flag that the host reads one replay late, so that it never waits for the last replay.

    On a CPU the host reads it at once.
    """

    def __init__(self, flag: Tensor) -> None:
        self._flag, on_gpu = flag, flag.device.type == "cuda"
        self._seen = torch.zeros((), dtype=torch.bool, pin_memory=on_gpu)
        self._events = [torch.cuda.Event() for _ in range(2)] if on_gpu else []
        self._replays = 0

    def restart(self) -> None:
        """Clear the flag before the first replay; no pending device work may write it."""
        self._seen.fill_(False)
        self._replays = 0

    def publish(self) -> None:
        """Copy the flag to the host, as the last work of a graph."""
        self._seen.copy_(self._flag, non_blocking=True)

    def after_replay(self) -> bool:
        """Whether the previous replay, or already this one, has set the flag."""
        if self._events:
            self._events[self._replays % 2].record()
            if self._replays:
                self._events[(self._replays - 1) % 2].synchronize()
        self._replays += 1
        return bool(self._seen)


def _nothing() -> None:
    """Do nothing: the preparation of a function that needs none."""
