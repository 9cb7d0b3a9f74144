"""The interface of every runner: translates a batch into tokens and scores, and measures the time."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from train_model.cli import UserError, check_number
from train_model.data.dictionary import PAD
from train_model.models.hypotheses import MAX_BEAM, Found
from trt_code.runners.timing import wall_ms

WARM_UP = 3
"""Untimed passes before the timed ones, in which allocators, autotuners and caches settle."""
WARM_UP_SECONDS = 2
"""Seconds after which the warm-up of a slow network ends early."""


NO_NUMBERS = (
    "the network gives scores that are infinite or not numbers; make its files again, "
    "or use --precision fp32"
)


class Unavailable(Exception):
    """Raised if this machine cannot run a runner or its built files. The message is one line.

    Args:
        reason: the message.
        built: the file that was built although it cannot run, for the table.
    """

    def __init__(self, reason: str, built: str = "") -> None:
        super().__init__(f"{built}; not run: {reason}" if built else reason)
        self.row = str(self) if built else f"not run: {reason}"


class OtherWeights(Unavailable):
    """Raised if a built file is of other weights than the model's checkpoint."""


@dataclass(frozen=True)
class Output:
    """The network's results for one batch.

    Attributes:
        tokens: [B, T] int64; bos first, eos last, then padding (1).
        scores: [B, T] float32, one per token.
    """

    tokens: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Timing:
    """Milliseconds of every timed pass.

    Attributes:
        device_ms: only the network, with input and output on the device.
        host_ms: from a NumPy batch to NumPy results, copies included.
    """

    device_ms: list[float]
    host_ms: list[float]


class Runner(abc.ABC):
    """One network on one device in one precision. Use it as a context manager, or call ``close``.

    Several threads may call ``run``; they take turns at resources that only one can use, in the order
    of their requests (``trt_code.runners.turns``). Rivals do not promise that.

    Attributes:
        name: its name for ``create``.
        precision: fp32, tf32, fp16, bf16 or int8.
        device: "cpu" or "cuda".
        max_source: the longest source it takes, in tokens with bos and eos; None if unknown.
        max_batch: the largest number of sentences in a batch; None if only memory limits it.
        int8_report: the file that shows which products run in INT8 (``trt_code.measure.layer_precision``);
            None if the runner cannot report it.
        config: the network's configuration if it was loaded from a checkpoint; None for a graph or a plan.
        make_ms: milliseconds that ``create`` took to make it; 0 if it was not made by ``create``.
        n_best: whether it gives several translations per sentence; ``create`` sets it from the declaration.
        shares_threads: whether calls from several threads run at once, on the threads of one call.
    """

    make_ms: float = 0.0
    n_best: bool = False
    shares_threads: bool = False
    max_source: int | None = None
    max_batch: int | None = None
    int8_report: Path | None = None
    config: Any = None

    def __init__(self, name: str, precision: str, device: str):
        self.name, self.precision, self.device = name, precision, device

    @abc.abstractmethod
    def run(self, src_tokens: np.ndarray) -> Output:
        """Translate ``src_tokens`` [B, S] int64, padded on the right with 1."""

    def candidates(self, src_tokens: np.ndarray, count: int, beam: int | None = None) -> Found:
        """Return the best ``count`` translations of each sentence, with their scores.

        A search finds them all. A one-pass network gives translations of several lengths, on runners that
        decode separately from the encoder. ``beam`` replaces the runner's beam in a search; it is at least
        ``count``.

        Raises:
            UserError: the runner gives only one translation.
        """
        self.check_n_best(count)
        return rank([self.run(src_tokens)]) if count == 1 else self._several(src_tokens, count)

    def check_n_best(self, count: int) -> None:
        """Raise ``UserError`` if the runner does not give ``count`` translations per sentence."""
        check_number("the number of translations per sentence", count, 0, MAX_BEAM)
        if count > 1 and not self.n_best:
            raise UserError(one_translation(self.name))

    def _several(self, src_tokens: np.ndarray, count: int) -> Found:
        """Return ``count`` translations, 2 or more; for runners that declare ``n_best``."""
        raise NotImplementedError

    def twin(self) -> "Runner | None":
        """Return a runner that shares this one's weights and works at the same time, if this kind can."""
        return None

    def time(self, src_tokens: np.ndarray, repeats: int) -> Timing:
        """Time ``repeats`` passes over ``src_tokens`` after warm-up.

        On a CPU the two times are the same passes; a GPU runner overrides ``_device_ms``.
        """
        spent_ms, passes = 0.0, 0
        while passes < WARM_UP and spent_ms < WARM_UP_SECONDS * 1e3:
            spent_ms += wall_ms(lambda: self.run(src_tokens))
            passes += 1
        host_ms = [wall_ms(lambda: self.run(src_tokens)) for _ in range(repeats)]
        return Timing(self._device_ms(src_tokens, repeats) or host_ms, host_ms)

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        """Time ``repeats`` warm passes with the device's clock; empty if this is the host's clock."""
        return []

    @abc.abstractmethod
    def peak_memory(self) -> int:
        """Return the peak of its memory in bytes: device memory on a GPU, resident memory on a CPU."""

    def close(self) -> None:  # noqa: B027 (nothing to give back is a good default)
        """Free the device's memory. The runner cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def one_translation(name: str) -> str:
    """Return the message that the runner ``name`` gives only one translation per sentence."""
    return (
        f"{name} gives one translation per sentence of a one-pass network; for more choose the runner "
        "native, ort-split, torch, cuda-graph or trt-split"
    )


def widen(batch: np.ndarray, width: int, fill: int = PAD) -> np.ndarray:
    """Return a batch [B, T] as [B, width], padded on the right with ``fill``."""
    return np.pad(batch, ((0, 0), (0, width - batch.shape[1])), constant_values=fill)


def rank(outputs: Sequence[Output]) -> Found:
    """Rank a one-pass network's translations of the same batch.

    The first output, of the predicted lengths, stays first; the others follow by the mean score of their
    tokens. Ranking all by that score, as fairseq's ``--iter-decode-with-beam`` does, chooses a wrong length
    for 7 % of the demo's sentences. A row without a token is not counted.
    """
    width = max(output.tokens.shape[1] for output in outputs)
    tokens = np.stack([widen(output.tokens, width)[:, 1:] for output in outputs], axis=1)
    scores = np.stack([widen(output.scores, width, 0)[:, 1:] for output in outputs], axis=1)
    real = tokens != PAD
    lengths = real.sum(axis=2)
    mean = np.where(lengths > 0, (scores * real).sum(axis=2) / np.maximum(lengths, 1), -np.inf)
    others = np.argsort(-mean[:, 1:], axis=1, kind="stable") + 1
    order = np.pad(others, ((0, 0), (1, 0)))

    def ranked(array: np.ndarray) -> np.ndarray:
        return np.take_along_axis(array, order.reshape(*order.shape, *[1] * (array.ndim - 2)), 1)

    return Found(
        (lengths > 0).sum(axis=1),
        ranked(tokens),
        ranked(np.where(real, scores, np.float32(0))),
        ranked(lengths),
        ranked(mean.astype(np.float32)),
    )
