"""Helpers for autoregressive networks: random sources, and the log-probabilities of every step."""

import torch

from train_model.models.incremental import IncrementalDecoder


def sentences(lengths, vocab=40, seed=0):
    """Random right-padded sources [B, S]."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), 1)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(4, vocab, (length - 1,), generator=generator)
        row[length - 1] = 2
    return tokens


@torch.inference_mode()
def incremental_logprobs(model, src_tokens, prev_output_tokens):
    """Return the log-probabilities [B, T, V] of teacher forcing, computed one token at a time."""
    decoder = IncrementalDecoder.of(model)
    decoder.begin(src_tokens, 1, prev_output_tokens.shape[1])
    parents = torch.zeros(len(src_tokens), 1, dtype=torch.int64)
    return torch.cat(
        [decoder.step(column, parents) for column in prev_output_tokens.split(1, 1)], 1
    )
