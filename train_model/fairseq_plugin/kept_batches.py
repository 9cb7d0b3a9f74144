"""``--keep-batches``: all batches are collated before training starts and stay in memory.

fairseq uses the same batches in every epoch, in another order, but collates each of them again, sentence by
sentence. For a small network that takes longer than the update. Kept batches give the same updates. They
need ``--num-workers 0`` and are best used with ``--data-buffer-size 0``: a loader thread that only looks
batches up slows the training thread down.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, FairseqDataset
from tqdm import tqdm

from train_model.cli import UserError

_dataset: FairseqDataset  # in a worker process


class KeptBatches(BaseWrapperDataset):
    """A dataset with indices as items, and a collater that looks the batch up."""

    def __init__(self, dataset: FairseqDataset) -> None:
        super().__init__(dataset)
        self._batches: dict[tuple[int, ...], dict[str, Any]] = {}

    def __getitem__(self, index: int) -> int:
        return int(index)

    def collater(self, samples: list[int]) -> dict[str, Any]:
        """Return the batch of the sentences ``samples``; a shallow copy, since tasks add entries to it."""
        return dict(self._batches[tuple(samples)])

    def keep(self, batches: Iterable[list[int]]) -> None:
        """Collate and keep the new ones of the batches, given by their sentences' indices."""
        global _dataset
        keys = [key for batch in batches if (key := tuple(map(int, batch))) not in self._batches]
        if not keys:
            return
        _dataset = self.dataset
        processes = len(os.sched_getaffinity(0))
        # forked workers share the dataset's memory
        fork = multiprocessing.get_context("fork")
        with fork.Pool(processes, torch.set_num_threads, (1,)) as pool:
            collated = tqdm(pool.imap(_collate, keys, 4), desc="batches", total=len(keys))
            for key, batch in zip(keys, collated, strict=True):
                self._batches[key] = _convert(batch, np.ndarray, torch.from_numpy)


def _collate(key: tuple[int, ...]) -> dict[str, Any]:
    """Collate a batch into NumPy arrays, which go through a pipe; each tensor would open a file."""
    batch = _dataset.collater([_dataset[index] for index in key])
    return _convert(batch, torch.Tensor, torch.Tensor.numpy)


def _convert(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _convert(part, kind, function) for key, part in value.items()}
    return function(value) if isinstance(value, kind) else value


class KeepsBatches:
    """Mixin of translation tasks for ``--keep-batches``; their configuration has ``keep_batches``."""

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **options: Any):
        """Load the split as the task does; keep the training batches."""
        super().load_dataset(split, epoch, combine, **options)
        if self.cfg.keep_batches and split == self.cfg.train_subset:
            self.datasets[split] = KeptBatches(self.datasets[split])

    def get_batch_iterator(self, dataset: FairseqDataset, *args: Any, **options: Any):
        """Return the task's iterator; collates the batches of a :class:`KeptBatches` first."""
        iterator = super().get_batch_iterator(dataset, *args, **options)
        if isinstance(dataset, KeptBatches):
            if options.get("num_workers"):
                raise UserError("keep_batches needs num_workers 0: a worker would keep its own")
            dataset.keep(iterator.frozen_batches)
        return iterator
