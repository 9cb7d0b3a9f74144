"""Scores of an autoregressive network for translations that another network made."""

import torch
from torch import Tensor
from torch.nn import functional as F

from train_model.data.dictionary import EOS, PAD
from train_model.models.autoregressive import AutoregressiveTranslator, EncoderOut


def token_logprobs(
    judge: AutoregressiveTranslator, src_tokens: Tensor, translations: Tensor
) -> Tensor:
    """Return the log-probability of each token given the ones before it (teacher forcing).

    The candidates are scored one after the other, so that the logits [B, T, V] of only one are in memory.

    Args:
        judge: the network, with the dictionaries of the tokens.
        src_tokens: sources [B, S] int64, without bos as in its training.
        translations: candidates of each source [B, N, T] int64 with eos and without bos; pad follows.

    Returns:
        [B, N, T] float32; 0 at pad.

    Raises:
        ValueError: the judge has fewer than S source positions, or fewer than T target positions.
    """
    source = judge.encode(src_tokens)
    scores = [_logprobs(judge, source, candidate) for candidate in translations.unbind(1)]
    return torch.stack(scores, 1)


def _logprobs(judge: AutoregressiveTranslator, source: EncoderOut, target: Tensor) -> Tensor:
    # an autoregressive network begins with eos
    past = torch.cat([torch.full_like(target[:, :1], EOS), target[:, :-1]], 1)
    logits = judge.decode(past, source).float()
    return -F.cross_entropy(logits.transpose(1, 2), target, ignore_index=PAD, reduction="none")
