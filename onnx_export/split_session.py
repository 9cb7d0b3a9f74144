"""Runs the two files of ``export_split`` in ONNX Runtime with the interface of one file.

The decoder of an iterative network runs several times, on its own output.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from onnx_export.marks import check_pair, positions
from train_model.cli import UserError
from train_model.data.dictionary import PAD
from train_model.models.canvas import canvas_width, initial_canvas
from train_model.models.refinement import Refinement
from train_model.models.signatures import OUTPUT_SCORES, OUTPUT_TOKENS, SPLIT, SRC_TOKENS

_FILL = {OUTPUT_TOKENS: PAD, OUTPUT_SCORES: 0}


class SplitSession:
    """Decodes on a canvas as wide as the longest predicted length of the batch.

    Args:
        encoder, decoder: sessions of the two files.
        path: their name in messages.
        max_iter: passes of an iterative network's decoder after the first one, if not the file's.

    Raises:
        UserError: the sessions are not those of the two files.
    """

    def __init__(
        self,
        encoder: onnxruntime.InferenceSession,
        decoder: onnxruntime.InferenceSession,
        path: Path,
        max_iter: int | None = None,
    ) -> None:
        for session, expected in zip((encoder, decoder), SPLIT.values(), strict=True):
            if signature_names(session) != (list(expected.inputs), list(expected.outputs)):
                raise UserError(
                    f"{path}: its halves are not those of one network; make them with `make onnx-split`"
                )
        self._encoder, self._decoder = encoder, decoder
        # tensors between the two files stay on their device
        on_gpu = "CUDAExecutionProvider" in encoder.get_providers()
        self._device = "cuda" if on_gpu else "cpu"
        metadata = encoder.get_modelmeta().custom_metadata_map
        self._refinement = Refinement.in_metadata(metadata, max_iter)
        check_pair([metadata, decoder.get_modelmeta().custom_metadata_map], path)
        self.max_source, self._max_target = positions(metadata, path)

    def run(self, names: Sequence[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Run both files like ``InferenceSession.run`` on the single file.

        The outputs have the same width: twice the source, at most the decoder's positions. Positions
        that were not decoded are padding.
        """
        src_tokens = feeds[SRC_TOKENS]
        encoded, lengths = self.encode(src_tokens)
        outputs = self.decode(src_tokens, encoded, lengths)
        return [outputs[name] for name in names]

    def encode(self, src_tokens: np.ndarray) -> tuple[onnxruntime.OrtValue, np.ndarray]:
        """Return the encoder's output, on its device, and the predicted lengths [B] int64."""
        binding = self._encoder.io_binding()
        binding.bind_cpu_input(SRC_TOKENS, src_tokens)
        binding.bind_output("encoded", self._device)
        binding.bind_output("lengths", "cpu")
        self._encoder.run_with_iobinding(binding)
        encoded, lengths = binding.get_outputs()
        return encoded, lengths.numpy()

    def canvas_width(self, src_tokens: np.ndarray) -> int:
        """The most tokens of a translation of these sources [B, S], both ends included."""
        return canvas_width(src_tokens.shape[1], self._max_target)

    def decode(
        self, src_tokens: np.ndarray, encoded: onnxruntime.OrtValue, lengths: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The outputs by name for translations of these lengths [B], which are cut to the canvas."""
        widest = self.canvas_width(src_tokens)
        width = min(int(lengths.max()), widest)

        def decode(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            binding = self._decoder.io_binding()
            binding.bind_cpu_input(SRC_TOKENS, src_tokens)
            binding.bind_ortvalue_input("encoded", encoded)
            binding.bind_cpu_input("canvas", canvas)
            for name in _FILL:
                binding.bind_output(name, "cpu")
            self._decoder.run_with_iobinding(binding)
            tokens, scores = (value.numpy() for value in binding.get_outputs())
            return tokens, scores

        outputs = self._refinement.run(decode, initial_canvas(lengths, width))
        return {
            name: np.pad(output, ((0, 0), (0, widest - width)), constant_values=fill)
            for (name, fill), output in zip(_FILL.items(), outputs, strict=True)
        }


def signature_names(session: onnxruntime.InferenceSession) -> tuple[list[str], list[str]]:
    """Return the names of a file's inputs and of its outputs."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return [item.name for item in inputs], [item.name for item in outputs]
