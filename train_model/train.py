"""Train a model from a recipe with fairseq, and write its checkpoint.

    python -m train_model.train --recipe demo
    python -m train_model.train --recipe demo --set max_update=1000 --set batch_size=64

Several GPUs of one machine share the work, each with the recipe's batch. The total batch is then that of one
GPU with --set update_freq=8:

    torchrun --nproc-per-node 8 -m train_model.train --recipe wmt16-ar-496

Prepares the corpus if needed, and continues from the last checkpoint if there is one. Writes the best
weights, or the mean of the last checkpoints, to build/<recipe>/checkpoint.pt, for the export and the runners.
"""

import argparse
import contextlib
import dataclasses
import errno
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train_model import fairseq_compat, recipe
from train_model.cli import (
    MAX_THREADS,
    Parser,
    UserError,
    first_line,
    one_at_a_time,
    path_argument,
    run,
)
from train_model.data.binary import check_binary
from train_model.data.corpora import DISTILLED, prepare

WARM_UPDATES, TIMED_UPDATES = 3, 20
# fairseq hangs or fails with other numbers
_POSITIVE = ("batch_size", "log_interval", "lr", "max_tokens", "update_freq")
# the flags of which one ends a training
_ENDS = ("max_update", "max_epoch", "stop_time_hours", "stop_min_lr", "patience")
# flags omitted without a GPU: they would only cost time, or need one
ON_GPU = ("bf16", "fp16", "cuda_graphs")


def train(chosen: recipe.Recipe, build_dir: str | os.PathLike = "build") -> Path:
    """Train and return the path of the model's checkpoint.

    Raises:
        UserError: fairseq or the corpus is missing, a flag is unknown, or the folder holds a training
            of another network, or one that started from older weights.
    """
    fairseq_compat.prepare()
    import torch

    import train_model.fairseq_plugin  # noqa: F401

    _check_flags(chosen)
    # torchrun's other processes wait until the first one has prepared the corpus
    with one_at_a_time(Path(build_dir) / ".preparing"):
        data = prepare(chosen.corpus, build_dir)
        check_binary(data)
    output = Path(build_dir) / chosen.name
    save_dir = output / "train"
    save_dir.mkdir(parents=True, exist_ok=True)
    last = save_dir / "checkpoint_last.pt"
    first = _is_first_process()
    if last.is_file() and chosen.flags.get("start_from"):
        _check_start(last, Path(chosen.flags["start_from"]))
    if first:
        start = f"going on from {last}" if last.is_file() else "from the start"
        print(f"recipe {chosen.name}: {chosen.summary}")
        print(f"device: {_device()}; {start}")
    if not torch.cuda.is_available() and not chosen.flags.keys().isdisjoint(ON_GPU):
        flags = {name: value for name, value in chosen.flags.items() if name not in ON_GPU}
        chosen = dataclasses.replace(chosen, flags=flags)
    _run_fairseq([str(data), "--save-dir", str(save_dir), *chosen.arguments()])
    best = save_dir / "checkpoint_best.pt"
    if first:
        newest = _newest(save_dir, chosen.average) if chosen.average else []
        _convert(newest or [best if best.is_file() else last], output / "checkpoint.pt")
    return output / "checkpoint.pt"


def _check_start(last: Path, start: Path) -> None:
    """Refuse to go on with ``last`` if it was fine-tuned from another network than ``start``."""
    from train_model.models.checkpoint import load_checkpoint

    before, now = (load_checkpoint(path).config.made_from for path in (last, start))
    if before and now and before != now:
        raise UserError(
            f"{last.parent} holds a fine-tuning of other weights than those of {start}; remove it to start "
            "over"
        )


def _is_first_process() -> bool:
    """Return whether this process prints and writes for all that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _run_fairseq(arguments: list[str]) -> None:
    from fairseq_cli import train as fairseq_train

    begun: list[int] = []
    try:
        with _command_line(arguments), _forecast(fairseq_train, begun):
            fairseq_train.cli_main(modify_parser=_raise_on_error)
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG)
        if full or "PytorchStreamWriter" in str(error):
            raise UserError(
                f"cannot write a checkpoint into {arguments[2]}; is there room on its disk?"
            ) from error
        if "Cannot load model parameters" in str(error):
            raise UserError(
                f"{arguments[2]} holds a training of another network; remove it to start over"
            ) from error
        # of the networks, of the optimizer, or of fairseq, which raises plain exceptions
        refused = isinstance(error, ValueError | ArithmeticError) or type(error) is Exception
        if refused and not begun:
            raise UserError(f"the flags of the recipe or of --set do not fit: {error}") from error
        raise


def _check_flags(chosen: recipe.Recipe) -> None:
    """Parse the flags as fairseq will, before the corpus is prepared.

    Raises:
        UserError: fairseq does not know a flag, or refuses its value.
    """
    from fairseq import options

    parser = options.get_training_parser()
    arguments = ["corpus", *chosen.arguments()]
    given = options.parse_args_and_arch(parser, arguments, modify_parser=_raise_on_error)
    for name in _POSITIVE:
        values = getattr(given, name, None)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not 0 < value < math.inf:
                raise UserError(
                    f"{name} is {value}; give a number above 0 in the recipe or by --set"
                )
    if not any((getattr(given, name, None) or 0) > 0 for name in _ENDS):
        raise UserError(
            f"none of {', '.join(_ENDS)} is above 0, so the training would never end; give one by --set"
        )
    if given.num_workers > MAX_THREADS:  # each is a process
        raise UserError(f"num_workers is {given.num_workers}; it is at most {MAX_THREADS}")


@contextlib.contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Set ``sys.argv``, which fairseq reads."""
    original = sys.argv
    sys.argv = ["fairseq-train", *arguments]
    try:
        yield
    finally:
        sys.argv = original


def _raise_on_error(parser: argparse.ArgumentParser) -> None:
    def error(message: str) -> None:
        raise UserError(f"fairseq does not take these flags: {message}")

    parser.error = error


@contextlib.contextmanager
def _forecast(fairseq_train: Any, begun: list[int]) -> Iterator[None]:
    """Time the first updates of fairseq's training loop and print how long all will take.

    The numbers of the epochs are appended to ``begun`` as they begin.
    """
    original = fairseq_train.train

    def train_epoch(cfg, trainer, task, epoch_itr):
        begun.append(epoch_itr.epoch)
        if "train_step" not in vars(trainer):
            if getattr(cfg.task, "cuda_graphs", False):
                from train_model.fairseq_plugin.graphed_steps import GraphedSteps

                trainer.train_step = GraphedSteps(trainer)
            trainer.train_step = _timed(trainer, _updates_in_all(cfg, len(epoch_itr)))
        return original(cfg, trainer, task, epoch_itr)

    fairseq_train.train = train_epoch
    try:
        yield
    finally:
        fairseq_train.train = original


def _updates_in_all(cfg: Any, batches: int) -> float:
    limits = cfg.optimization
    by_epochs = (
        limits.max_epoch * batches / limits.update_freq[0] if limits.max_epoch else float("inf")
    )
    return min(by_epochs, limits.max_update or float("inf"))


def _timed(trainer: Any, updates: float):
    """Wrap ``trainer.train_step`` to print the forecast once enough updates were timed."""
    step = trainer.train_step
    done, start = 0, 0.0

    def train_step(*args, **kwargs):
        nonlocal done, start
        result = step(*args, **kwargs)
        if done < WARM_UPDATES + TIMED_UPDATES:
            done += 1
            if done == WARM_UPDATES:
                start = _now()
            elif done == WARM_UPDATES + TIMED_UPDATES:
                pace = (_now() - start) / TIMED_UPDATES
                left = updates - trainer.get_num_updates()
                print(
                    f"{pace:.3f} s an update; the remaining {left:.0f} updates take about "
                    f"{_duration(left * pace)}, validation not counted",
                    flush=True,
                )
        return result

    return train_step


def _now() -> float:
    """Return the time in seconds when the GPU, if there is one, has done all that it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _newest(save_dir: Path, count: int) -> list[Path]:
    """Return the newest ``count`` of the existing checkpoints that were saved by number of updates."""
    found = [
        (int(match[1]), path)
        for path in save_dir.iterdir()
        if (match := re.fullmatch(r"checkpoint_\d+_(\d+)\.pt", path.name))
    ]
    return [path for _, path in sorted(found)[-count:]]


def _convert(sources: list[Path], target: Path) -> None:
    """Write the network with the mean of the checkpoints' weights."""
    from train_model.models.checkpoint import load_checkpoint, save_checkpoint

    loaded = load_checkpoint(sources[0])
    mean = loaded.model.state_dict()
    for number, source in enumerate(sources[1:], start=2):
        for name, value in load_checkpoint(source).model.state_dict().items():
            if value.is_floating_point():
                mean[name] += (value - mean[name]) / number
    loaded.model.load_state_dict(mean)
    save_checkpoint(target, loaded.model, loaded.config)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=first_line(__doc__))
    parser.add_argument(
        "--recipe", default="demo", help=f"one of: {', '.join(recipe.names())} (default demo)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a flag of the recipe to another value; may be given several times",
    )
    parser.add_argument(
        "--distilled",
        action="store_true",
        help="train on the corpus that train_model.distill made; into build/<recipe>-distilled",
    )
    parser.add_argument(
        "--corpus",
        help="another corpus than the recipe's, with the same languages",
    )
    parser.add_argument("--build-dir", type=path_argument, default="build", help="default build")
    options = parser.parse_args(argv)
    chosen = recipe.load(options.recipe, options.set)
    if options.corpus:
        chosen = dataclasses.replace(chosen, corpus=options.corpus)
    if options.distilled:
        chosen = dataclasses.replace(
            chosen, name=chosen.name + DISTILLED, corpus=chosen.corpus + DISTILLED
        )
    checkpoint = train(chosen, options.build_dir)
    if _is_first_process():
        print(f"wrote {checkpoint}")


if __name__ == "__main__":
    run(main)
