"""Checks that the files of a one-pass or iterative network compute what the network computes.

Tokens must be equal. Scores, single ones and their sums over a sentence, must agree within 1e-4 plus the
rounding of the path scores, of which they are differences. A CRF reads its scores through the rank of the
next candidate (see ``lite::crf_decode``). If that candidate ties with its neighbour in rank, the score is not
defined. Such scores are counted and not compared; ties do not change the sums.

The split files run on a canvas cut to the longest predicted length, and the network still decodes on the
whole one.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from onnx_export import session
from onnx_export.onnx_file import read_graph
from onnx_export.paths import half_path
from onnx_export.split_session import SplitSession
from train_model.cli import UserError
from train_model.data.dictionary import BOS, EOS, PAD, SPECIALS
from train_model.models.architectures import architecture_of
from train_model.models.signatures import SPLIT, SRC_TOKENS, WHOLE

BATCHES = (1, 2, 16)
LENGTHS = (1, 2, 3, 8, 33)
PADDINGS = ("none", "right", "left")
SCORE_TOLERANCE = 1e-4
ROUNDINGS = 4  # of a path score; 934 batches of the demo needed 2.1 on top of the tolerance


@dataclasses.dataclass(frozen=True)
class Check:
    """The outcome of one batch."""

    batch: int
    length: int
    padding: str
    tokens: int  # positions compared
    different: int  # of these, with another token
    tied: int  # of these, with a score that a tie leaves open
    score_error: float  # the largest absolute difference, ties left out, sums of sentences included
    score_limit: float

    @property
    def good(self) -> bool:
        """Whether the file computed the same."""
        return self.different == 0 and self.score_error <= self.score_limit


def random_source(
    batch: int, length: int, padding: str, vocab: int, generator: torch.Generator
) -> torch.Tensor:
    """Tokens [batch, length] int64: ``<s>`` words ``</s>``, rows of any length when padded, one full."""
    source = torch.randint(len(SPECIALS), vocab, (batch, length), generator=generator)
    if padding == "none":
        lengths = torch.full((batch,), length)
    else:
        lengths = torch.randint(1, length + 1, (batch,), generator=generator)
        lengths[0] = length
    for row, size in zip(source, lengths.tolist(), strict=True):
        row[0], row[size - 1], row[size:] = BOS, EOS, PAD
        if padding == "left":
            row.copy_(row.roll(length - size))
    return source


def verify(
    model: nn.Module,
    session: onnxruntime.InferenceSession | SplitSession,
    seed: int = 0,
    more: int = 0,
) -> Iterator[Check]:
    """Run both over the grid and one batch of the greatest length; yield the outcomes as they come.

    Args:
        model: the network.
        session: the file, or the two files.
        seed: of the random sources.
        more: the number of batches of 16 rows and any length up to 64 that come after the grid.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = model.config.max_source_positions
    grid = [(batch, length) for length in LENGTHS for batch in BATCHES if length <= longest]
    lengths = torch.randint(2, min(64, longest) + 1, (more,), generator=generator).tolist()
    for batch, length in [*grid, (2, longest), *((16, length) for length in lengths)]:
        for padding in PADDINGS:
            if padding != "none" and min(batch, length) == 1:
                continue
            source = random_source(batch, length, padding, model.config.src_vocab, generator)
            yield compare(model, session, source, padding)


def compare(
    model: nn.Module,
    session: onnxruntime.InferenceSession | SplitSession,
    source: torch.Tensor,
    padding: str = "",
) -> Check:
    """Run one batch [B, S] through both."""
    with torch.inference_mode():
        tokens, scores, tied = (part.numpy() for part in _expected(model, source))
    try:
        outputs = session.run([*WHOLE.outputs], {SRC_TOKENS: source.numpy()})
    except Exception as error:  # onnxruntime's own types differ between versions
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the file does not run a source of {list(source.shape)} ({reason}); is it another network's, or "
            "of fixed sizes?"
        ) from error
    if outputs[0].shape != tokens.shape:
        raise UserError(
            f"the file gives {list(outputs[0].shape)} tokens for a source of {list(source.shape)}, "
            f"the network {list(tokens.shape)}; this is another network's file"
        )
    # A score is the difference of two path scores, and these are sums rounded to FP32 at every step.
    rounding = ROUNDINGS * np.finfo(np.float32).eps * np.abs(scores.cumsum(1)).max()
    errors = np.where(tied, 0, np.abs(outputs[1] - scores))
    sums = np.abs((outputs[1] - scores).sum(1))
    return Check(
        *source.shape,
        padding,
        tokens=tokens.size,
        different=int((outputs[0] != tokens).sum()),
        tied=int(tied.sum()),
        score_error=float(max(errors.max(), sums.max())),
        score_limit=float(SCORE_TOLERANCE + rounding),
    )


def _expected(model: nn.Module, source: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The network's tokens and scores, and where a tie leaves a score undefined, all [B, T]."""
    if architecture_of(model).family == "iterative":
        tokens, scores = model(source)
        return tokens, scores, torch.zeros_like(tokens, dtype=torch.bool)
    encoded = model.encode(source)
    canvas = model.initial_canvas(
        model.predict_length(encoded), model.canvas_width(source.shape[1])
    )
    logits = model.decode(canvas, encoded)
    tokens, scores = model.choose(logits, canvas)
    tied = architecture_of(model).unsure_scores(model, logits, tokens, SCORE_TOLERANCE)
    return tokens, scores, tied


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an exported file in ONNX Runtime on the CPU.

    Raises:
        UserError: the file is not a model that ``onnx_export.export`` wrote.
    """
    graph = read_graph(path).graph
    names = [item.name for item in (*graph.input, *graph.output)]
    if names != [*WHOLE.inputs, *WHOLE.outputs]:
        raise UserError(
            f"{path} maps {names}, not {', '.join(WHOLE.inputs)} to {' and '.join(WHOLE.outputs)}; "
            "give a file that onnx_export.export wrote"
        )
    return session.open_session(path)


def open_split_session(path: Path) -> SplitSession:
    """Open the two files that ``onnx_export.export --output path --split`` wrote.

    Raises:
        UserError: a file is missing, or they are not such files.
    """
    return _open_pair([half_path(path, half) for half in SPLIT], path)


def _open_pair(files: list[Path], path: Path) -> SplitSession:
    return SplitSession(*map(session.open_session, files), path)


def verify_file(model: nn.Module, path: Path, seed: int, more: int) -> int:
    """Compare the network with the file that ``onnx_export.export`` wrote; see :func:`report`."""
    return report(verify(model, open_session(path), seed, more))


def verify_split(model: nn.Module, path: Path, seed: int, more: int) -> int:
    """Compare the network with the two files of ``onnx_export.export --split``; see :func:`report`."""
    return report(verify(model, open_split_session(path), seed, more))


def verify_pass(model: nn.Module, path: Path, seed: int, more: int) -> int:
    """Compare an iterative network with its two files, all passes; see :func:`report`."""
    opened = _open_pair([half_path(path, "encoder"), path], path)
    return report(verify(model, opened, seed, more))


def report(checks: Iterable[Check]) -> int:
    """Print a line per batch as the checks come; return exit status 1 if any is bad."""
    print("batch length padding   tokens different  tied  score error     limit  check")
    bad = total = 0
    for check in checks:
        total, bad = total + 1, bad + (not check.good)
        print(
            f"{check.batch:5} {check.length:6} {check.padding:7} {check.tokens:8} {check.different:9} "
            f"{check.tied:5} "
            f"{check.score_error:12.2e} {check.score_limit:9.1e}  {'OK' if check.good else 'BAD'}",
            flush=True,
        )
    print(f"{total - bad} of {total} batches agree")
    return 1 if bad else 0
