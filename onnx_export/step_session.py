"""Runs the two files of an autoregressive network in ONNX Runtime, with the interface of its halves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from onnx_export.marks import check_pair, positions
from onnx_export.paths import half_path
from onnx_export.session import open_session
from train_model.cli import UserError
from train_model.models.signatures import SRC_TOKENS, STATE

if TYPE_CHECKING:
    from train_model.models.incremental import IncrementalDecoder


class StepSession:
    """The two sessions on the CPU, called with arrays.

    Attributes:
        metadata: the step's.
        max_source, max_target: the network's positions.
        vocab_size: of the target.

    Raises:
        UserError: a file is missing, or the files are not the encoder and the step of this project.
    """

    def __init__(self, path: Path, threads: int = 0, trusted: bool = False) -> None:
        self._path = path
        files = half_path(path, "encoder"), path
        self._encoder, self._step = (
            open_session(file, threads=threads, trusted=trusted) for file in files
        )
        for session, half, place in (
            (self._encoder, "encoder", half_path(path, "encoder")),
            (self._step, "step", path),
        ):
            if session.get_modelmeta().custom_metadata_map.get("half") != half:
                raise UserError(
                    f"{place} is not the {half} of an autoregressive network; make it with `make onnx`"
                )
        self.metadata = self._step.get_modelmeta().custom_metadata_map
        check_pair([self.metadata, self._encoder.get_modelmeta().custom_metadata_map], path)
        self.max_source, self.max_target = positions(self.metadata, path)
        inputs = self._step.get_inputs()
        self._names = [item.name for item in inputs]
        self._state = [item.shape for item in inputs if item.name.startswith(STATE)]
        self.vocab_size = self._step.get_outputs()[0].shape[-1]

    def decoder(self) -> "IncrementalDecoder":
        """The network as a search on PyTorch tensors drives it; the tensors share the arrays' memory."""
        import torch

        from train_model.models.incremental import IncrementalDecoder

        def encode(src_tokens: torch.Tensor) -> list[torch.Tensor]:
            return list(map(torch.from_numpy, self.encode(src_tokens.numpy())))

        def step(*inputs) -> tuple[torch.Tensor, list[torch.Tensor]]:
            *tensors, source, state = inputs
            arrays = ([tensor.contiguous().numpy() for tensor in part] for part in (source, state))
            logprobs, new_state = self.step(*(tensor.numpy() for tensor in tensors), *arrays)
            return torch.from_numpy(logprobs), list(map(torch.from_numpy, new_state))

        return IncrementalDecoder(encode, step, self.state_shapes, self.vocab_size, self.max_target)

    def encode(self, src_tokens: np.ndarray) -> list[np.ndarray]:
        """As :class:`train_model.models.incremental.SourceEncoder` is called."""
        return self._run(self._encoder, [SRC_TOKENS], [src_tokens])

    def step(
        self,
        tokens: np.ndarray,
        parents: np.ndarray,
        position: np.ndarray,
        source: Sequence[np.ndarray],
        state: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """As :class:`train_model.models.incremental.DecoderStep` is called."""
        inputs = [tokens, parents, position, *source, *state]
        logprobs, *new_state = self._run(self._step, self._names, inputs)
        return logprobs, new_state

    def state_shapes(self, rows: int, room: int) -> list[tuple[int, ...]]:
        """Shapes of the state, in the order of the step's inputs."""
        sizes = {"rows": rows, "room": room}
        return [tuple(sizes.get(size, size) for size in shape) for shape in self._state]

    def _run(
        self, session: onnxruntime.InferenceSession, names: list[str], inputs: list[np.ndarray]
    ) -> list[np.ndarray]:
        try:
            return session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:  # wrong shapes fail here, not when the file is opened
            reason = str(error).splitlines()[0]
            raise UserError(
                f"ONNX Runtime fails in {self._path} or its encoder: {reason}"
            ) from error
