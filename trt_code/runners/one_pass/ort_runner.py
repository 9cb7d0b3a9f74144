"""ONNX Runtime over the exported file (fp32) or a patched one (the other precisions).

A patched file is written for TensorRT and has plugin nodes that ONNX Runtime does not know. The
reference functions are put back in memory, so what runs is the very graph that TensorRT gets.
"""

from pathlib import Path
from typing import Any

import numpy as np

from onnx_export.paths import half_path
from train_model.cli import UserError
from train_model.models.signatures import SPLIT, SRC_TOKENS, WHOLE
from trt_code.runners.base import (
    WARM_UP,
    Output,
    ResidentMemory,
    Runner,
    Unavailable,
    wall_ms,
)
from trt_code.runners.vocabulary import check_vocabularies

_INT8 = "model.qdq"
OUTPUTS = [*WHOLE.outputs]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def create(
    model_files: Any,
    precision: str,
    device: str,
    *,
    build_dir: str | Path = "build",
    threads: int = 0,
    name: str = "ort",
    split: bool = False,
    **_: Any,
) -> "OrtRunner":
    """Open ``model.onnx`` or ``model.<precision>.onnx``; see ``trt_code.runners.create``.

    INT8 on a CPU is the exported ``model.qdq.onnx``, in which ONNX Runtime finds integer kernels; the
    patched graph computes in FP16 between them, which a CPU can only imitate.

    With ``split`` it is the two halves of that name, whose canvas ends with the longest translation.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed (make env)") from error
    if device == "cpu" and precision == "tf32":
        raise Unavailable("TF32 needs a CUDA GPU")
    if _PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise Unavailable("this onnxruntime has no CUDA (pip install onnxruntime-gpu instead)")
    exported = {"fp32": "model.onnx"} | ({"int8": f"{_INT8}.onnx"} if device == "cpu" else {})
    file_name = exported.get(precision, f"model.{precision}.onnx")
    path = Path(build_dir) / model_files.name / file_name
    files = [path]
    if split:
        files = [half_path(path, half) for half in SPLIT]
    target = f"make {'onnx' if precision == 'fp32' else 'patch'}{'-split' if split else ''}"
    target += "" if precision == "fp32" else f" PRECISION={precision}"
    for file in files:
        if not file.is_file():
            raise Unavailable(f"{file} has not been built ({target} MODEL={model_files.name})")
    runner = OrtRunner(name, path, files, precision, device, threads)
    check_vocabularies(files[-1], runner.metadata, model_files, target)
    return runner


class OrtRunner(Runner):
    """One ONNX Runtime session, or two that take turns.

    Args:
        name: what the runner is called.
        path: what the network is called in messages.
        files: the file, or its two halves.

    Raises:
        UserError: a file is no ONNX model of this project.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        files: list[Path],
        precision: str,
        device: str,
        threads: int,
    ):
        super().__init__(name, precision, device)
        self._path = path
        self._memory = ResidentMemory() if device == "cpu" else _DeviceMemory()
        from onnx_export.split_session import SplitSession, signature_names

        self._is_split = len(files) > 1
        sessions = [_open(file, precision, device, threads) for file in files]
        if self._is_split:
            self._session = SplitSession(*sessions, path)
        else:
            (self._session,) = sessions
            if signature_names(self._session) != ([*WHOLE.inputs], OUTPUTS):
                raise UserError(f"{path} has other inputs or outputs; make it with `make onnx`")
        self.metadata = sessions[0].get_modelmeta().custom_metadata_map
        limit = self.metadata.get("max_source_positions")
        self.max_source = int(limit) if limit else None

    def run(self, src_tokens: np.ndarray) -> Output:
        try:
            tokens, scores = self._session.run(OUTPUTS, {SRC_TOKENS: src_tokens})
        except Exception as error:  # shapes that do not fit are found here, not when it is opened
            reason = str(error).splitlines()[0]
            raise UserError(f"ONNX Runtime fails in {self._path}: {reason}") from error
        return Output(tokens, scores)

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        if self.device == "cpu" or self._is_split:
            return []  # between two halves the host chooses the canvas: its clock is the one
        import onnxruntime as ort

        binding = self._session.io_binding()
        on_device = ort.OrtValue.ortvalue_from_numpy(src_tokens, "cuda", 0)
        binding.bind_ortvalue_input(SRC_TOKENS, on_device)
        for name in OUTPUTS:
            binding.bind_output(name, "cuda")

        def forward() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        for _ in range(WARM_UP):
            forward()
        return [wall_ms(forward) for _ in range(repeats)]

    def peak_memory(self) -> int:
        return self._memory.peak()

    def close(self) -> None:
        self._session = None


def _open(path: Path, precision: str, device: str, threads: int):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised as well, and told once
    providers = [_PROVIDERS[device]]
    if device == "cuda":
        providers = [(_PROVIDERS[device], {"use_tf32": int(precision == "tf32")})]
    # a GPU has the arithmetic of low precision, a CPU is shown its rounding step by step
    native, patched = device == "cuda", precision != "fp32" and not path.name.startswith(_INT8)
    graph = _with_reference_functions(path, native) if patched else str(path)
    # one fused kernel of sum and norm, which takes longer on a CPU than the two: 12 % of the demo at 16 x 32
    slow = ["SkipLayerNormFusion"] if device == "cpu" else []
    try:
        return ort.InferenceSession(graph, options, providers=providers, disabled_optimizers=slow)
    except Exception as error:  # onnxruntime's own types differ between versions
        raise UserError(f"ONNX Runtime refuses {path}: {error}") from error


def _with_reference_functions(path: Path, native: bool) -> bytes:
    from onnx_export.onnx_file import load_onnx
    from onnx_export.reference import with_reference_functions

    try:
        return with_reference_functions(load_onnx(path), native=native).SerializeToString()
    except ValueError as error:
        raise UserError(f"{path}: {error}; make it again with `make patch`") from error


class _DeviceMemory:
    """Device memory taken since the start; ONNX Runtime's arena only grows, so that is the peak."""

    def __init__(self) -> None:
        self._free = self._free_now()

    def peak(self) -> int:
        return max(0, self._free - self._free_now())

    @staticmethod
    def _free_now() -> int:
        import torch

        return torch.cuda.mem_get_info()[0]
