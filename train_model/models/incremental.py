"""One step at a time: the Lite Transformer cut into an encoder and a step with explicit state.

Both halves take and give plain tensors, so that the same two run in PyTorch, in ONNX Runtime and in
TensorRT; :class:`IncrementalDecoder` keeps the state between the steps, whoever computes them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from train_model.models.autoregressive import AutoregressiveTranslator, Source

# Attention's keys and values get room for so many more tokens whenever they are full: a step costs
# what the sentence needs and not what the longest one could, and the shapes that occur are few.
ROOM = 16


class SourceEncoder(nn.Module):
    """Source tokens to what every step needs of them."""

    def __init__(self, model: AutoregressiveTranslator) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, src_tokens: Tensor) -> list[Tensor]:
        """[B, S] int64 to the padding mask [B, S] bool, then key and value of every decoder layer,
        [B, heads, S, C / heads]; see ``signatures.search_encoder``."""
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
        """See :meth:`Decoder.step`; ``source`` is what :class:`SourceEncoder` gave.

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
    """Keeps the state between steps; what :func:`train_model.models.beam_search.beam_search` drives."""

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
        """Put the halves together.

        Args:
            encode: as :class:`SourceEncoder` is called.
            step: as :class:`DecoderStep` is called.
            state_shapes: shapes of the state for a number of hypotheses and room for tokens.
            dtype: of the state.
            room: tokens by which the room for them grows.
        """
        self._encode, self._step, self._state_shapes = encode, step, state_shapes
        self.vocab_size, self.max_target_positions = vocab_size, max_target_positions
        self._dtype, self._more_room = dtype, room

    @classmethod
    def of(cls, model: AutoregressiveTranslator) -> "IncrementalDecoder":
        """The network in PyTorch, on the device where it is."""
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
        # all at once: a number sent to a GPU in every step would cost more than the rest of the host's work
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
