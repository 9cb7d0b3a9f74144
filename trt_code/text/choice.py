"""Chooses the runner of a translation: the requested one, or the fastest by a cached measurement."""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from train_model.cli import UserError, atomic_path
from train_model.data.dictionary import BOS, EOS, SPECIALS, Dictionary
from train_model.documents import read_json
from train_model.models.architectures import Family
from trt_code.runners import RUNNERS, Runner, Unavailable, create, spec
from trt_code.runners.base import OtherWeights, one_translation
from trt_code.runners.rescoring import Rescoring
from trt_code.runners.timing import wall_ms

CANDIDATES = ("trt-split", "trt", "cuda-graph", "native", "ort-split", "ort")
FALLBACK = "torch"
Load = Literal["one", "many"]
SHAPES: dict[Load, tuple[int, int]] = {"one": (1, 16), "many": (32, 32)}
"""The measured shapes: sentences and source tokens of interactive use and of a file."""
PASSES = 5


def another(first: Runner, open_one: Callable[[], Runner]) -> Runner:
    """Return a runner for a second batch: ``first`` if its calls share threads, a twin, or a new one."""
    return first if first.shares_threads else first.twin() or open_one()


def open_runner(
    name: str,
    files: Any,
    precision: str,
    device: str,
    load: Load = "many",
    n_best: int = 1,
    rescoring: Rescoring | None = None,
    **options: Any,
) -> Runner:
    """Open the runner ``name``, or for "auto" the fastest runner with built files.

    The first "auto" with several such runners measures each, which takes seconds, and writes the result to
    ``fastest.json`` in the folder of the built files. If files are built later, it measures again.
    Without built files it takes PyTorch, but not if there are some of other weights.

    Args:
        load: the kind of use to optimise for: single sentences, or many.
        n_best: the translations per sentence that the runner has to give.
        rescoring: the runner is wrapped, and the judge chooses among its translations.
        options: see ``runners.create``.

    Raises:
        UserError: none of them can run; the message has each one's reason. Or the runner gives fewer
            translations per sentence.
    """
    if rescoring is not None:
        rescoring.check_n_best(n_best)
        n_best = rescoring.candidates
    runner = _open(name, files, precision, device, load, n_best, **options)
    return rescoring.wrap(runner) if rescoring else runner


def _open(
    name: str,
    files: Any,
    precision: str,
    device: str,
    load: Load,
    n_best: int,
    **options: Any,
) -> Runner:
    several = n_best > 1
    check_n_best(name, files.family, n_best)
    names = _candidates(files.family, device, several) if name == "auto" else [name]
    folder = Path(options.get("build_dir", "build")) / files.name
    record = folder / "fastest.json"
    key, built = f"{device} {precision} {options.get('threads', 0)} threads", _built(folder)
    key += ", several translations" if several else ""
    kept = _read(record)
    if name == "auto" and (found := _kept(kept, key, built, load)) in names:
        with contextlib.suppress(Unavailable):
            return create(found, files, precision, device, **options)
    runners, reasons, stale = [], [], False
    for candidate in names:
        try:
            runners.append(create(candidate, files, precision, device, **options))
        except Unavailable as unavailable:
            reasons.append(f"{candidate}: {unavailable}")
            stale |= isinstance(unavailable, OtherWeights)
    if not runners and name == "auto" and not stale:
        with contextlib.suppress(Unavailable):
            return create(FALLBACK, files, precision, device, **options)
    if not runners:
        raise UserError(f"cannot run {files.name} in {precision} on {device}: {'; '.join(reasons)}")
    if len(runners) == 1:
        return runners[0]
    times = {load: _measure(runners, files, *shape) for load, shape in SHAPES.items()}
    with contextlib.suppress(UserError), atomic_path(record) as path:  # a folder that is read-only
        entry = {"built": built, "milliseconds": times}
        path.write_text(json.dumps(kept | {key: entry}, indent=1) + "\n", encoding="utf-8")
    fastest = min(times[load], key=times[load].__getitem__)
    shown = ", ".join(f"{name} {times[load][name]:.1f} ms" for name in times[load])
    batch, length = SHAPES[load]
    print(f"fastest here for {batch} x {length} tokens: {shown}; kept in {record}", file=sys.stderr)
    for runner in runners:
        if runner.name != fastest:
            runner.close()
    return next(runner for runner in runners if runner.name == fastest)


def check_n_best(name: str, family: Family, n_best: int) -> None:
    """Raise ``UserError`` if the runner ``name`` gives fewer than ``n_best`` translations per sentence."""
    chosen = spec(name, family) if name in RUNNERS else None
    if n_best > 1 and chosen and not chosen.n_best:
        raise UserError(one_translation(name))


def _candidates(family: Family, device: str, several: bool) -> list[str]:
    """Return the runners of networks of this family on ``device``, or those with ``several`` translations."""
    declared = ((name, spec(name, family)) for name in CANDIDATES)
    return [
        name
        for name, found in declared
        if found and device in found.precisions and (found.n_best or not several)
    ]


def _measure(runners: list[Runner], files: Any, batch: int, length: int) -> dict[str, float]:
    """Return the time of each runner's fastest pass in ms; runners alternate, so other load hits all."""
    length = min([length, *(r.max_source for r in runners if r.max_source)])
    batch = min([batch, *(r.max_batch for r in runners if r.max_batch)])
    words = len(Dictionary.load(files.src_dict))
    tokens = np.random.default_rng(0).integers(len(SPECIALS), words, (batch, length))
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    passes: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for _ in range(1 + PASSES):
        for runner in runners:
            passes[runner.name].append(wall_ms(lambda runner=runner: runner.run(tokens)))
    return {name: round(min(times[1:]), 3) for name, times in passes.items()}


def _built(folder: Path) -> dict[str, int]:
    """Return the files that the runners open, with their modification times."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in sorted(folder.glob("*"))
        if path.suffix in (".onnx", ".plan", ".safetensors")
    }


def _read(record: Path) -> dict[str, Any]:
    try:
        content = read_json(record, "")
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def _kept(kept: dict[str, Any], key: str, built: dict[str, int], load: Load) -> str | None:
    """Return the recorded fastest runner for the same files, or None."""
    try:
        entry = kept[key]
        times = entry["milliseconds"][load]
        return min(times, key=times.__getitem__) if entry["built"] == built else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
