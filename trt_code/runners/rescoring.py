"""Noisy parallel decoding: an autoregressive network chooses among translations of a one-pass network.

The one-pass network translates each sentence with several lengths. The autoregressive network, the judge,
scores each translation in one pass, and the one with the best mean log-probability per token is kept (Gu et
al. 2018, arXiv:1711.02281; ``--iter-decode-with-external-reranker`` of fairseq).
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from train_model.cli import UserError, check_number
from train_model.data.dictionary import Dictionary
from train_model.model_folder import ModelFolder, find_model
from train_model.models.hypotheses import MAX_BEAM, Found, without_bos
from trt_code.runners.base import Output, Runner, Unavailable, one_translation
from trt_code.runners.pytorch import check_device, matmul_precision, set_threads

if TYPE_CHECKING:
    from train_model.models.autoregressive import AutoregressiveTranslator


@dataclass(frozen=True)
class Rescoring:
    """How candidates are rescored. The judge runs in PyTorch in FP32.

    Attributes:
        candidates: translations per sentence.
        judge: the autoregressive model.
        device: "cpu" or "cuda".
        threads: CPU threads; 0 for all cores.
    """

    candidates: int
    judge: ModelFolder
    device: str
    threads: int = 0

    @classmethod
    def of(
        cls,
        files: ModelFolder,
        candidates: int | None,
        judge: str | None,
        device: str,
        threads: int = 0,
    ) -> Self | None:
        """Return the rescoring of a one-pass model's translations, or None without ``candidates``.

        Args:
            files: the one-pass model.
            judge: the name or path of the judge; None takes ``judge`` of the model's model.yaml.
            candidates, device, threads: see the class.

        Raises:
            UserError: the model is not a one-pass network, or no autoregressive model with its dictionaries
                was given.
        """
        if candidates is None:
            if judge is not None:
                raise UserError("--judge needs --candidates, the number of translations to score")
            return None
        check_number("candidates", candidates, 1, MAX_BEAM)
        if files.family != "one-pass":
            raise UserError(
                f"--candidates is for one-pass networks, and {files.name} is an {files.family} one; "
                "leave it out"
            )
        judge = judge or files.judge
        if not judge:
            raise UserError(
                f"--candidates needs a judge, and {files.name} names none; give an autoregressive model "
                "with the same dictionaries with --judge"
            )
        found = find_model(judge)
        if not found.autoregressive:
            raise UserError(
                f"the judge {found.name} is a {found.family} network; give an autoregressive one"
            )
        for side, own, other in (
            ("source", files.src_dict, found.src_dict),
            ("target", files.tgt_dict, found.tgt_dict),
        ):
            if own and other and Dictionary.load(own).digest() != Dictionary.load(other).digest():
                raise UserError(
                    f"the judge {found.name} has another {side} dictionary than {files.name}; "
                    "give a model that was trained with the same one"
                )
        return cls(candidates, found, device, threads)

    def check_n_best(self, count: int) -> None:
        """Raise ``UserError`` if there are fewer candidates than ``count`` translations to return."""
        if count > self.candidates:
            raise UserError(
                f"{count} translations per sentence need --candidates {count} or more, not "
                f"{self.candidates}"
            )

    def wrap(self, runner: Runner) -> Runner:
        """Return a runner that rescores the candidates of ``runner``, which it closes too.

        Raises:
            Unavailable: ``runner`` gives only one translation per sentence.
        """
        if self.candidates > 1 and not runner.n_best:
            runner.close()
            raise Unavailable(one_translation(runner.name))
        return Rescored(runner, self)

    @functools.cached_property
    def network(self) -> "AutoregressiveTranslator":
        """The judge's network, which several runners share."""
        from train_model.models.checkpoint import load_checkpoint

        check_device(self.device)
        set_threads(self.threads)
        return load_checkpoint(self.judge.checkpoint).model.eval().to(self.device)


class Rescored(Runner):
    """A one-pass runner with the scores and the choice of a judge."""

    def __init__(self, runner: Runner, rescoring: Rescoring):
        super().__init__(runner.name, runner.precision, runner.device)
        self._runner, self._rescoring = runner, rescoring
        self.n_best = True
        longest = rescoring.network.config.max_source_positions
        self.max_source = min(runner.max_source or longest, longest)
        self.max_batch, self.int8_report = runner.max_batch, runner.int8_report
        self.config, self.make_ms = runner.config, runner.make_ms

    def run(self, src_tokens: np.ndarray) -> Output:
        return Output(*self._several(src_tokens, 1).best())

    def candidates(self, src_tokens: np.ndarray, count: int, beam: int | None = None) -> Found:
        self.check_n_best(count)
        return self._several(src_tokens, count)

    def check_n_best(self, count: int) -> None:
        self._rescoring.check_n_best(count)

    def twin(self) -> Runner | None:
        twin = self._runner.twin()
        return Rescored(twin, self._rescoring) if twin else None

    def _several(self, src_tokens: np.ndarray, count: int) -> Found:
        """Return the judge's best ``count`` of all candidates."""
        found = self._runner.candidates(src_tokens, self._rescoring.candidates)
        logprobs = self._logprobs(src_tokens, found.tokens)
        mean = logprobs.sum(2) / np.maximum(found.lengths, 1)
        mean[np.arange(mean.shape[1]) >= found.counts[:, None]] = -np.inf
        order = np.argsort(-mean, axis=1, kind="stable")[:, :count]
        return Found(
            np.minimum(found.counts, count),
            np.take_along_axis(found.tokens, order[:, :, None], 1),
            np.take_along_axis(logprobs, order[:, :, None], 1),
            np.take_along_axis(found.lengths, order, 1),
            np.take_along_axis(mean, order, 1),
        )

    def _logprobs(self, src_tokens: np.ndarray, translations: np.ndarray) -> np.ndarray:
        import torch

        from train_model.models.rescoring import token_logprobs

        judge = self._rescoring.network
        positions = judge.config.max_target_positions
        if translations.shape[2] > positions:
            raise UserError(
                f"a translation has {translations.shape[2]} tokens, more than the {positions} positions of "
                f"the judge {self._rescoring.judge.name}; translate without --candidates"
            )
        tensors = (
            torch.from_numpy(array).to(self.device)
            for array in (without_bos(src_tokens), translations)
        )
        with torch.inference_mode(), matmul_precision("fp32", self.device):
            return token_logprobs(judge, *tensors).cpu().numpy()

    def peak_memory(self) -> int:
        return self._runner.peak_memory()

    def close(self) -> None:
        self._runner.close()
