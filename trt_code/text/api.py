"""``Translator``, the class for programs: translates with a model folder on any runner."""

import os
import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Literal, NamedTuple, Self

from train_model.cli import UserError, check_choice, check_number, check_path
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from train_model.models.hypotheses import MAX_BEAM, check_beam
from trt_code import runners
from trt_code.devices import default_device, processors
from trt_code.runners.rescoring import Rescoring
from trt_code.text import translator
from trt_code.text.choice import open_runner
from trt_code.text.codec import OnError, TooLong, Translation, Unknown
from trt_code.text.graphs import cache_folder, ensure_built


class Batch(NamedTuple):
    """Translations with scores; each list has one entry per line, with one item per hypothesis.

    Attributes:
        texts: the best hypothesis first; a line without text has none.
        scores: of each hypothesis, see ``trt_code.text.codec.Hypothesis``.
        tokens: its subword units.
        positional_scores: one score per unit.
    """

    texts: list[list[str]]
    scores: list[list[float]]
    tokens: list[list[list[str]]]
    positional_scores: list[list[list[float]]]


class Translator:
    """Translates sentences with a model. Use it as a context manager, or call ``close``.

    The first use of a model makes the files of its runner in the cache: ONNX files, TensorRT engines for the
    runners "trt" and "trt-split", a calibrated checkpoint for INT8. This takes a minute or more and is
    announced on stderr. Several threads may share a translator. Processes make their own: one that was made
    before a fork raises ``UserError`` in the child.

    Args:
        model: a name in data_model, such as "demo", or the path of a model folder.
        runner: "auto", the fastest that is available, or a name such as "ort-split", "torch" or "trt".
        device: "cpu", "cuda", or "auto".
        precision: "fp32", "tf32", "fp16", "bf16" or "int8"; "auto" is fp16 on a GPU and fp32 on a CPU.
        cache: folder of the files that are made; default: see ``trt_code.text.graphs.cache_folder``.
        build_dir: folder of files that ``make`` built; they are used instead of the cache.
        threads: CPU threads of the network; 0 takes all processors.
        max_tokens, max_sentences: bounds of a batch, padding included.
        unknown: treatment of units that the dictionary lacks: "refuse" the sentence, "keep" them as ``<unk>``
        or "drop" them; None uses the model's policy.
        too_long: "refuse" a sentence of more tokens than the model has positions, or "cut" it.
        on_error: "stop", raise an error for a refused sentence, or "skip" it: its translation is empty, and
        ``translations`` has the reason.
        beam: hypotheses of a search; 1 is greedy.
        len_penalty: exponent of a hypothesis' length in its score.
        max_iter: passes of an iterative network after the first one; None takes the network's own.
        candidates: translations of a one-pass network per sentence, of different lengths, of which the judge
        chooses (noisy parallel decoding); None does without.
        judge: the name or path of an autoregressive model with the same dictionaries; None takes the one that
        model.yaml names.
        kernels, cuda_graph: how a TensorRT engine runs, see ``trt_code.engine.plan.RuntimeOptions``.

    Raises:
        UserError: the model or the runner is not available; the message says what to do.
    """

    def __init__(
        self,
        model: str | os.PathLike = "demo",
        *,
        runner: str = "auto",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: str = "auto",
        cache: str | os.PathLike | None = None,
        build_dir: str | os.PathLike | None = None,
        threads: int = 0,
        max_tokens: int = translator.MAX_TOKENS,
        max_sentences: int = translator.MAX_SENTENCES,
        unknown: Unknown | None = None,
        too_long: TooLong = "refuse",
        on_error: OnError = "stop",
        beam: int | None = None,
        len_penalty: float | None = None,
        max_iter: int | None = None,
        candidates: int | None = None,
        judge: str | os.PathLike | None = None,
        kernels: Literal["eager", "lazy", "none"] = "eager",
        cuda_graph: Literal["runner", "library", "none"] = "runner",
    ):
        self._process = os.getpid()
        check_choice("runner", runner, ("auto", *runners.RUNNERS))
        check_choice("device", device, ("auto", "cpu", "cuda"))
        check_choice("precision", precision, ("auto", *runners.PRECISIONS))
        check_path("model", model)
        for name, path in (("cache", cache), ("build_dir", build_dir), ("judge", judge)):
            if path is not None:
                check_path(name, path)
        files = find_model(os.fspath(model), build_dir or "build").require_text()
        self.model = files.name
        device = default_device() if device == "auto" else device
        if precision == "auto":
            precision = "fp16" if device == "cuda" else "fp32"
        threads = processors() if threads == 0 else threads
        judge = None if judge is None else os.fspath(judge)
        rescoring = Rescoring.of(files, candidates, judge, device, threads)
        folder = build_dir or cache_folder(files, cache)
        ensure_built(files, folder, runner, precision, device)
        self._runner = open_runner(
            runner,
            files,
            precision,
            device,
            rescoring=rescoring,
            threads=threads,
            build_dir=folder,
            beam=beam,
            len_penalty=len_penalty,
            max_iter=max_iter,
            kernels=kernels,
            cuda_graph=cuda_graph,
        )
        self._translator = translator.LineTranslator(
            self._runner,
            Tokenizer.from_files(files),
            max_tokens,
            max_sentences,
            too_long,
            unknown,
            on_error,
        )
        self.runner, self.precision, self.device = self._runner.name, precision, device

    def translate(self, lines: Sequence[str]) -> list[str]:
        """Translate sentences; one without text gives an empty string.

        Warns:
            UserWarning: a sentence is unlike the text that trained the model; its translation may be wrong.

        Raises:
            UserError: a sentence is refused; the message names it by its number, from 1. Nothing has been
                translated then.
            TypeError: ``lines`` is not a list of strings.
        """
        return [translation.text for translation in _warned(self._open().translate(_lines(lines)))]

    def translate_batch(
        self,
        lines: Sequence[str],
        *,
        beam: int | None = None,
        n_best: int = 1,
        return_scores: bool = True,
    ) -> Batch:
        """Translate sentences and return their best hypotheses.

        Args:
            lines: sentences.
            beam: hypotheses of the search, for this call, at least ``n_best``; None takes the translator's,
                or ``n_best`` if that is more. One-pass networks have no search.
            n_best: hypotheses per sentence. A search has them all. A one-pass network gives translations of
                several lengths, on the runners native, ort-split, torch, cuda-graph
                and trt-split.
            return_scores: whether scores and tokens are returned; without them these lists are empty.

        Warns:
            UserWarning: as :meth:`translate`.

        Raises:
            UserError: as :meth:`translate`, or the runner does not give that many hypotheses.
        """
        check_number("n_best", n_best, 1, MAX_BEAM)
        if beam is not None:
            check_number("beam", beam, 1, MAX_BEAM)
        check_beam(beam, n_best)
        found = _warned(self._open().translate(_lines(lines), n_best=n_best, beam=beam))
        hypotheses = [translation.hypotheses for translation in found]
        texts = [[one.text for one in line] for line in hypotheses]
        if not return_scores:
            return Batch(texts, [], [], [])
        return Batch(
            texts,
            [[one.score for one in line] for line in hypotheses],
            [[list(one.tokens) for one in line] for line in hypotheses],
            [[list(one.token_scores) for one in line] for line in hypotheses],
        )

    def translations(
        self, lines: Sequence[str], *, n_best: int = 1, first_line: int = 1
    ) -> list[Translation]:
        """Translate sentences; each result has the hypotheses, and the error or the warning of its line.

        Args:
            lines: sentences.
            n_best: hypotheses per sentence; see :meth:`translate_batch`.
            first_line: the number of the first sentence, for messages.

        Raises:
            UserError: a sentence is refused and ``on_error`` is "stop", or the runner does not give that many
                hypotheses.
        """
        check_number("n_best", n_best, 0, MAX_BEAM)
        check_number("first_line", first_line, 0)
        return self._open().translate(_lines(lines), first_line, n_best=n_best)

    def close(self) -> None:
        """Free the device's memory; the translator cannot be used afterwards."""
        self._translator = None
        if os.getpid() == self._process:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> translator.LineTranslator:
        if self._translator is None:
            raise ValueError("the translator is closed")
        if os.getpid() != self._process:
            raise UserError(
                f"this translator belongs to process {self._process}, and this is a fork of it; make a "
                "translator in each process (multiprocessing's start method spawn does so)"
            )
        return self._translator


def _warned(translations: list[Translation]) -> list[Translation]:
    """Return ``translations`` after a warning, at the line of the caller's program, for each that has one."""
    for translation in translations:
        if translation.warning:
            warnings.warn(translation.warning, stacklevel=3)
    return translations


def _lines(lines: Sequence[str]) -> list[str]:
    if isinstance(lines, str | Set | Mapping):  # one sentence, or sentences without an order
        raise TypeError(f"give a list of sentences, not a {type(lines).__name__}")
    lines = list(lines)
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, str):
            raise TypeError(f"sentence {number} is of type {type(line).__name__}; give strings")
    return lines
