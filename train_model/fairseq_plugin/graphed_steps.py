"""``--cuda-graphs``: forward and backward pass of an update are one replayed CUDA graph.

An update of a small network is some thousand kernels of a few microseconds; launching them one by one takes
longer than running them. Here the kernels of each shape of a batch are recorded once and launched together.
Clipping and the optimizer follow as fairseq does them. Nothing waits for the GPU except every
``--log-interval`` updates, when losses are read. So a gradient that is NaN or infinite stops the training
only then.

With several GPUs each one replays its own graphs, and the flat gradient is summed over all of them.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any

import torch
from fairseq import metrics
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from train_model.cli import UserError
from train_model.fairseq_plugin.kept_batches import KeptBatches, OnDevice, convert
from train_model.fairseq_plugin.master_weights import flat_master
from train_model.models.chains import compiled_chains


class GraphedSteps:
    """Takes the place of ``Trainer.train_step`` for updates of one batch in BF16."""

    def __init__(self, trainer: Any, capture: bool = True) -> None:
        """Read the options of ``trainer``.

        Args:
            capture: record CUDA graphs; False runs the same updates without them, on any device.

        Raises:
            UserError: other options contradict ``--cuda-graphs``.
        """
        cfg = trainer.cfg
        wanted = {
            "bf16: true": cfg.common.bf16,
            "update_freq: 1": list(cfg.optimization.update_freq) == [1],
            "keep_batches: true": cfg.task.keep_batches,
        }
        missing = [name for name, given in wanted.items() if not given]
        if missing:
            raise UserError(f"cuda_graphs needs {', '.join(missing)}")
        self._trainer, self._capture = trainer, capture
        self._network = trainer.get_model()
        self._several = distributed.is_initialized() and distributed.get_world_size() > 1
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self._recorded: dict[torch.Size, _Recorded] = {}
        self._sums: dict[str, Any] = {}
        self._count = 0
        for module in self._network.modules():
            if type(module) is nn.Linear and module.bias is not None:
                module.forward = functools.partial(_linear, module)

    def __call__(self, samples: list[dict[str, Any]], raise_oom: bool = False) -> dict[str, Any]:
        """Update the weights by the only batch of ``samples``; returns nothing to log."""
        trainer = self._trainer
        with metrics.aggregate("train"):
            if not self._recorded:
                self._record_all()
            trainer._set_seed()
            self._network.train()
            trainer.criterion.train()
            size, logged = self._gradients(*samples)
            if self._several:
                size = torch.full((), float(size), device=self._flat.device)
                distributed.all_reduce(self._flat.grad)
                distributed.all_reduce(size)
            trainer.optimizer.multiply_grads(1 / size)
            norm = trainer.clip_grad_norm(trainer.cfg.optimization.clip_norm)
            update = trainer.get_num_updates()
            trainer.task.optimizer_step(trainer.optimizer, trainer.model, update)
            trainer.set_num_updates(update + 1)
            self._add(logged | {"gnorm": norm})
            if (update + 1) % trainer.cfg.common.log_interval == 0:
                self._log()
        return {}

    @property
    def _flat(self) -> nn.Parameter:
        return flat_master(self._trainer.optimizer)

    def _record_all(self) -> None:
        start = time.perf_counter()
        dataset = self._trainer.task.datasets[self._trainer.cfg.dataset.train_subset]
        assert isinstance(dataset, KeptBatches)
        self._network.train()
        for sample in dataset.one_of_each_shape():
            sample = self._trainer.task.with_schedule(sample, 0)
            self._recorded[sample["target"].shape] = _Recorded(
                self._forward_backward, sample, self._flat.device, self._capture, self._pool
            )
        seconds = time.perf_counter() - start
        if self._capture and self._trainer.is_data_parallel_master:
            print(f"{len(self._recorded)} CUDA graphs recorded in {seconds:.0f} s", flush=True)

    def _gradients(self, sample: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Write the batch's gradients into the masters'; return sample size and what is logged."""
        if not sample:  # another process has one batch more
            self._flat.grad.zero_()
            return 0, {}
        sample = sample.batch if isinstance(sample, OnDevice) else sample
        sample = self._trainer.task.with_schedule(sample, self._trainer.get_num_updates())
        return self._recorded[sample["target"].shape](sample)

    def _forward_backward(self, sample: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        trainer = self._trainer
        optimizer, update = trainer.optimizer, trainer.get_num_updates()
        with compiled_chains():
            _, size, logged = trainer.task.train_step(
                sample, self._network, trainer.criterion, optimizer, update
            )
        optimizer._sync_fp16_grads_to_fp32()
        for parameter in optimizer.fp16_params:
            parameter.grad = None
        return size, logged

    def _add(self, logged: dict[str, Any]) -> None:
        for name, value in logged.items():
            # a new tensor each time: the next replay overwrites this one
            self._sums[name] = self._sums.get(name, 0) + value
        self._count += 1

    def _log(self) -> None:
        """Log means over the batches since the last time."""
        names = sorted(self._sums)
        device = self._flat.device
        sums = torch.stack([torch.as_tensor(self._sums[n], device=device).double() for n in names])
        count = torch.tensor(float(self._count), device=device)
        if self._several:
            distributed.all_reduce(sums)
            distributed.all_reduce(count)
        updates, self._sums, self._count = self._count, {}, 0
        means = dict(zip(names, (sums / count).tolist(), strict=True))
        norm = means.pop("gnorm")
        if norm != norm or norm == float("inf"):
            raise FloatingPointError("gradients are Nan/Inf")
        metrics.log_speed("ups", updates, priority=100, round=2)
        metrics.log_scalar("gnorm", norm, priority=400, round=3)
        self._trainer.task.reduce_metrics([means], self._trainer.criterion)
        # reduce_metrics has counted the tokens of one batch
        metrics.log_speed("wps", means["ntokens"] * (float(count) - 1), priority=90, round=1)


class _Recorded:
    """The forward and backward pass of a batch of one shape."""

    def __init__(
        self, run: Any, sample: dict[str, Any], device: torch.device, capture: bool, pool: Any
    ) -> None:
        """Record ``run``, or only keep it. Numbers of the sample become tensors, which a replay reads."""
        self._run = run
        self._sample = convert(sample, Tensor, Tensor.clone)
        self._sample = convert(
            self._sample, (int, float), lambda value: torch.tensor(value, device=device)
        )
        self._graph = None
        if not capture:
            return
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):  # the first call also initialises, which must not be recorded
            run(self._sample | {})
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's threads may query events during the capture
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._results = run(self._sample | {})

    def __call__(self, sample: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return sample size and log entries for ``sample``; numbers of the sample stay numbers."""
        pairs = list(_pairs(self._sample, sample))
        for kept, value in pairs:
            kept.copy_(value) if isinstance(value, Tensor) else kept.fill_(value)
        if self._graph is None:
            self._results = self._run(self._sample | {})
        else:
            self._graph.replay()
        numbers = {id(kept): value for kept, value in pairs if not isinstance(value, Tensor)}
        size, logged = self._results
        return numbers.get(id(size), size), {
            name: numbers.get(id(value), value) for name, value in logged.items()
        }


def _pairs(kept: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[Tensor, Any]]:
    """Yield each tensor of ``kept`` with its new value."""
    for name, value in kept.items():
        if isinstance(value, dict):
            yield from _pairs(value, new[name])
        elif isinstance(value, Tensor):
            yield value, new[name]


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return _Linear.apply(x, module.weight, module.bias)


class _Linear(torch.autograd.Function):
    """``F.linear`` whose bias gradient is a matrix product: a sum over many rows is slow in BF16."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        ones = rows.new_ones(1, rows.shape[0])
        return grad @ weight, rows.t() @ x.flatten(0, -2), (ones @ rows)[0]
