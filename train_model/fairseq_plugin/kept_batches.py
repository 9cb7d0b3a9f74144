"""``--keep-batches``: all batches are collated before training starts and stay in memory.

fairseq uses the same batches in every epoch, in another order, but collates each of them again, sentence by
sentence. For a small network that takes longer than the update. Kept batches give the same updates. They
need ``--num-workers 0`` and are best used with ``--data-buffer-size 0``: a loader thread that only looks
batches up slows the training thread down.

With ``--cuda-graphs`` (``graphed_steps``) the batches have a few shapes only, see :func:`square_batches`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset
from tqdm import tqdm

from train_model.cli import UserError
from train_model.processes import FORK

_dataset: FairseqDataset  # in a worker process
_longest: int | None  # in a worker process


def padded_width(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Return widths for lengths up to ``longest``: multiples of 8, above 64 of 16, above 128 of 32."""
    step = np.select([lengths <= 64, lengths <= 128], [8, 16], 32)
    return np.minimum(-(-lengths // step) * step, longest)


def square_batches(
    indices: np.ndarray, lengths: np.ndarray, longest: int, max_tokens: int, multiple: int = 1
) -> list[np.ndarray]:
    """Return batches of few shapes: those of one width have at most two numbers of sentences.

    Sentences that do not fill a batch join those of the next width. The last batch has the longest
    sentences, so some occur in it and in an earlier batch.

    Args:
        indices: the sentences [N] in any order, which is kept within a width.
        lengths: the length [N] of each sentence's longer side, in tokens.
        longest: the longest length that the network takes, in tokens.
        max_tokens: bound of the number of sentences in a batch times its width.
        multiple: the number of sentences in a batch is a multiple of this, if that many fit.
    """
    widths = padded_width(lengths, longest)
    order = np.argsort(widths, kind="stable")
    batches, rest = [], order[:0]
    for width in np.unique(widths):
        rows = np.concatenate([rest, order[widths[order] == width]])
        count = max(1, max_tokens // width)
        count -= count % multiple if count > multiple else 0
        whole = len(rows) // count * count
        batches += np.split(rows[:whole], whole // count) if whole else []
        rest = rows[whole:]
    if len(rest):
        batches.append(order[-count:])
    return [indices[rows] for rows in batches]


class OnDevice:
    """A batch in GPU memory. fairseq's loader pins what it loads, and only CPU tensors can be pinned."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def pin_memory(self) -> "OnDevice":
        """Return the batch as it is."""
        return self


class KeptBatches(BaseWrapperDataset):
    """A dataset with indices as items, and a collater that looks the batch up."""

    def __init__(
        self, dataset: FairseqDataset, longest: int | None = None, device: str = "cpu"
    ) -> None:
        """Wrap ``dataset``; its batches stay on ``device``.

        Args:
            longest: the longest sentence that the network takes, for batches of a few shapes; None leaves
                the batches as fairseq makes them.
        """
        super().__init__(dataset)
        self._longest, self._device = longest, device
        self._batches: dict[tuple[int, ...], dict[str, Any]] = {}

    def __getitem__(self, index: int) -> int:
        return int(index)

    def batch_by_size(
        self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1
    ):
        """Make fairseq's batches, or with a longest length those of :func:`square_batches`."""
        if self._longest is None:
            return super().batch_by_size(
                indices, max_tokens, max_sentences, required_batch_size_multiple
            )
        if max_tokens is None or max_sentences is not None:
            raise UserError("cuda_graphs needs max_tokens, and no batch_size")
        lengths = self.dataset.sizes[indices].max(-1)
        multiple = required_batch_size_multiple
        return square_batches(indices, lengths, self._longest, max_tokens, multiple)

    def collater(self, samples: list[int]) -> dict[str, Any]:
        """Return the batch of the sentences ``samples``; a shallow copy, since tasks add entries to it."""
        if not samples:  # another process has one batch more
            return {}
        batch = dict(self._batches[tuple(samples)])
        return batch if self._device == "cpu" else OnDevice(batch)

    def keep(self, batches: Iterable[list[int]]) -> None:
        """Collate and keep those of ``batches`` that are new; a batch is the indices of its sentences."""
        global _dataset, _longest
        keys = [key for batch in batches if (key := tuple(map(int, batch))) not in self._batches]
        if not keys:
            return
        _dataset, _longest = self.dataset, self._longest
        processes = len(os.sched_getaffinity(0))
        # forked workers share the dataset's memory
        with FORK.Pool(processes, torch.set_num_threads, (1,)) as pool:
            collated = tqdm(pool.imap(_collate, keys, 4), desc="batches", total=len(keys))
            for key, batch in zip(keys, collated, strict=True):
                self._batches[key] = convert(batch, np.ndarray, self._tensor)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def one_of_each_shape(self) -> Iterator[dict[str, Any]]:
        """Yield a batch of every shape, the largest first."""
        shapes = {tuple(batch["target"].shape): batch for batch in self._batches.values()}
        for _, batch in sorted(shapes.items(), key=lambda item: -np.prod(item[0])):
            yield dict(batch)


def _collate(key: tuple[int, ...]) -> dict[str, Any]:
    """Collate a batch into NumPy arrays, which go through a pipe; each tensor would open a file."""
    samples = [_dataset[index] for index in key]
    if _longest is None:
        batch = _dataset.collater(samples)
    else:
        widest = _dataset.sizes[list(key)].max()
        width = int(padded_width(widest, _longest))
        batch = _dataset.collater(samples, pad_to_length={"source": width, "target": width})
    return convert(batch, torch.Tensor, torch.Tensor.numpy)


def convert(value: Any, kind: type | tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """Apply ``function`` to every value of ``kind`` in nested dictionaries."""
    if isinstance(value, dict):
        return {key: convert(part, kind, function) for key, part in value.items()}
    return function(value) if isinstance(value, kind) else value


@dataclass
class KeptBatchesConfig:
    """The options of tasks with :class:`KeepsBatches`."""

    keep_batches: bool = field(
        default=False, metadata={"help": "collate every batch once (needs --num-workers 0)"}
    )
    cuda_graphs: bool = field(
        default=False, metadata={"help": "record every update once, replay it (needs a GPU, bf16)"}
    )


class KeepsBatches:
    """Mixin of translation tasks for ``--keep-batches`` and ``--cuda-graphs``."""

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **options: Any):
        """Load the split as the task does; keep the training batches."""
        super().load_dataset(split, epoch, combine, **options)
        if not self.cfg.keep_batches or split != self.cfg.train_subset:
            return
        graphed = {}
        if self.cfg.cuda_graphs:
            longest = min(self.cfg.max_source_positions, self.cfg.max_target_positions)
            graphed = {"longest": longest, "device": "cuda" if torch.cuda.is_available() else "cpu"}
        self.datasets[split] = KeptBatches(self.datasets[split], **graphed)

    def get_batch_iterator(self, dataset: FairseqDataset, *args: Any, **options: Any):
        """Return the task's iterator; collates the batches of a :class:`KeptBatches` first."""
        iterator = super().get_batch_iterator(dataset, *args, **options)
        if isinstance(dataset, KeptBatches):
            if options.get("num_workers"):
                raise UserError("keep_batches needs num_workers 0: a worker would keep its own")
            dataset.keep(iterator.frozen_batches)
        return iterator

    def with_schedule(self, sample: dict[str, Any], update: int) -> dict[str, Any]:
        """Return the sample with the numbers that depend on the update, if the task has any."""
        return sample
