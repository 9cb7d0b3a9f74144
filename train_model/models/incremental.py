"""Stepwise decoding: an autoregressive network as an encoder and a step with explicit state.

Both halves take and return plain tensors, so that they run in PyTorch, in ONNX Runtime and in TensorRT.
:class:`IncrementalDecoder` keeps the state between the steps for any of them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from train_model.models.autoregressive import AutoregressiveTranslator, Source

# The buffers of keys and values grow by this number of tokens whenever they are full. So a step's cost
# follows the sentence and not the longest possible one, and only few shapes occur.
ROOM = 16


class SourceEncoder(nn.Module):
    """Maps source tokens to the inputs that every step needs."""

    def __init__(self, model: AutoregressiveTranslator) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, src_tokens: Tensor) -> list[Tensor]:
        """Encode [B, S] int64 tokens: return the padding mask [B, S] bool, then key and value of every
        decoder layer, [B, heads, S, C / heads]; see ``signatures.search_encoder``."""
        source = self.decoder.project_source(self.encoder(src_tokens))
        pairs = zip(source.keys, source.values, strict=True)
        return [source.padding_mask, *(tensor for pair in pairs for tensor in pair)]


class DecoderStep(nn.Module):
    """One step of every hypothesis."""

    def __init__(self, model: AutoregressiveTranslator) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.names = list(model.decoder.state_shapes(1, 1))

    def forward(
        self,
        tokens: Tensor,
        parents: Tensor | None,
        position: Tensor,
        source: Sequence[Tensor],
        state: Sequence[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """See :meth:`Decoder.step`; ``source`` is the output of :class:`SourceEncoder`.

        Args:
            state: in the order of ``names``.

        Returns:
            Log-probabilities [B, beam, V] and the new state.
        """
        mask, *pairs = source
        logprobs, new_state = self.decoder.step(
            tokens,
            parents,
            position,
            Source(mask, pairs[::2], pairs[1::2]),
            dict(zip(self.names, state, strict=True)),
        )
        return logprobs, [new_state[name] for name in self.names]


class IncrementalDecoder:
    """Keeps the state between steps, for :func:`train_model.models.beam_search.beam_search`."""

    def __init__(
        self,
        encode: Callable[[Tensor], Sequence[Tensor]],
        step: Callable[..., tuple[Tensor, Sequence[Tensor]]],
        state_shapes: Callable[[int, int], Sequence[tuple[int, ...]]],
        vocab_size: int,
        max_target_positions: int,
        dtype: torch.dtype = torch.float32,
        room: int = ROOM,
    ) -> None:
        """Combine the two halves.

        Args:
            encode: called like :class:`SourceEncoder`.
            step: called like :class:`DecoderStep`.
            state_shapes: returns the state's shapes for a number of hypotheses and of tokens.
            dtype: dtype of the state.
            room: tokens by which the state grows.
        """
        self._encode, self._step, self._state_shapes = encode, step, state_shapes
        self.vocab_size, self.max_target_positions = vocab_size, max_target_positions
        self._dtype, self._more_room = dtype, room

    @classmethod
    def of(cls, model: AutoregressiveTranslator) -> "IncrementalDecoder":
        """Return the decoder of a PyTorch network, on the network's device."""
        return cls(
            SourceEncoder(model),
            DecoderStep(model),
            lambda rows, room: list(model.decoder.state_shapes(rows, room).values()),
            model.config.tgt_vocab,
            model.config.max_target_positions,
            model.encoder.embed_tokens.weight.dtype,
        )

    def begin(self, src_tokens: Tensor, beam: int, max_steps: int) -> None:
        """Encode ``src_tokens`` [B, S]; at most ``max_steps`` steps of [B, beam] follow."""
        self._source = self._encode(src_tokens)
        self._rows, self._max_steps = src_tokens.shape[0] * beam, max_steps
        self._position, self._room = 0, 0
        self._state: list[Tensor] = []
        self._device = src_tokens.device
        # all at once: copying a number to a GPU in every step would cost more than the host's other work
        self._positions = torch.arange(max(max_steps, 1), device=self._device)

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Log-probabilities [B, beam, V] of the next token, see :class:`StepDecoder`."""
        if self._position == self._room:
            self._grow()
        position = self._positions[self._position]
        logprobs, state = self._step(tokens, parents, position, self._source, self._state)
        self._state = list(state)
        self._position += 1
        return logprobs

    def _grow(self) -> None:
        self._room = min(self._room + self._more_room, max(self._max_steps, 1))
        before = self._state
        self._state = [
            torch.zeros(shape, dtype=self._dtype, device=self._device)
            for shape in self._state_shapes(self._rows, self._room)
        ]
        for new, old in zip(self._state, before, strict=False):
            new[:, :, : old.shape[2]] = old
