"""Beam search with the steps in ONNX Runtime, over the files of ``onnx_export/export_ar.py``."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onnx_export.export_ar import encoder_path
from train_model.cli import UserError
from train_model.models.incremental import IncrementalDecoder
from trt_code.runners.base import ResidentMemory, Unavailable
from trt_code.runners.search import SearchRunner


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    build_dir: str | Path = "build",
    threads: int = 0,
    beam: int | None = None,
    len_penalty: float | None = None,
    **_: Any,
) -> SearchRunner:
    """Open ``build/<model>/model.onnx`` and the encoder beside it; see ``trt_code.runners.create``."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed (make env)") from error
    if (precision, device) != ("fp32", "cpu"):
        raise Unavailable("one step at a time runs in ONNX Runtime in fp32 on the CPU alone")
    step = Path(build_dir) / model_files.name / "model.onnx"
    for path in (step, encoder_path(step)):
        if not path.is_file():
            raise Unavailable(f"{path} has not been built (make onnx MODEL={model_files.name})")
    memory = ResidentMemory()
    halves = OnnxHalves(step, threads)
    decoder = IncrementalDecoder(
        halves.encode, halves.step, halves.state_shapes, halves.vocab_size, halves.max_target
    )
    return SearchRunner(
        "ort", precision, device, decoder, halves.max_source, memory.peak, beam, len_penalty
    )


class OnnxHalves:
    """The two sessions, called with PyTorch tensors that share their memory.

    Raises:
        UserError: the files are no encoder and step of this project.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._encoder, self._step = (_session(p, threads) for p in (encoder_path(path), path))
        for session, half, place in (
            (self._encoder, "encoder", encoder_path(path)),
            (self._step, "step", path),
        ):
            if session.get_modelmeta().custom_metadata_map.get("half") != half:
                raise UserError(
                    f"{place} is no {half} of a Lite Transformer; make it with `make onnx`"
                )
        metadata = self._step.get_modelmeta().custom_metadata_map
        self.max_source = int(metadata["max_source_positions"])
        self.max_target = int(metadata["max_target_positions"])
        inputs = self._step.get_inputs()
        self._names = [item.name for item in inputs]
        self._state = [item.shape for item in inputs if item.name.startswith("layers.")]
        self.vocab_size = self._step.get_outputs()[0].shape[-1]

    def encode(self, src_tokens: Tensor) -> list[Tensor]:
        """As :class:`EncoderHalf` is called."""
        return _run(self._encoder, ["src_tokens"], [src_tokens])

    def step(
        self,
        tokens: Tensor,
        parents: Tensor,
        position: Tensor,
        source: list[Tensor],
        state: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """As :class:`StepHalf` is called."""
        inputs = [tokens, parents, position, *source, *state]
        logprobs, *new_state = _run(self._step, self._names, inputs)
        return logprobs, new_state

    def state_shapes(self, rows: int, room: int) -> list[tuple[int, ...]]:
        """Shapes of the state, in the order of the step's inputs."""
        sizes = {"rows": rows, "room": room}
        return [tuple(sizes.get(size, size) for size in shape) for shape in self._state]


def _session(path: Path, threads: int):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; the optimiser's remarks are not for users
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types differ between versions
        raise UserError(f"ONNX Runtime refuses {path}: {error}") from error


def _run(session, names: list[str], inputs: list[Tensor]) -> list[Tensor]:
    feeds = {name: tensor.contiguous().numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feeds)]
