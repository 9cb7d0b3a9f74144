"""ONNX Runtime over the exported file (fp32) or a patched one (the other precisions).

A patched file is written for TensorRT and has plugin nodes that ONNX Runtime does not know. The
reference functions are put back in memory, so ONNX Runtime runs the same graph as TensorRT.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from train_model.cli import UserError
from train_model.models.hypotheses import Found
from train_model.models.signatures import SPLIT, SRC_TOKENS, WHOLE
from trt_code.runners.base import WARM_UP, Output, Runner, Unavailable
from trt_code.runners.memory import DeviceMemory, ResidentMemory
from trt_code.runners.one_pass.several_lengths import translate_lengths
from trt_code.runners.spec import GRAPH_PRECISIONS, Graphs, Request, RunnerSpec
from trt_code.runners.timing import wall_ms

_INT8 = "model.qdq"
OUTPUTS = [*WHOLE.outputs]
Form = Literal["whole", "split", "pass"]
# The files of a network: one, both halves, or the encoder and one pass of an iterative network's decoder.
_HALVES: dict[Form, list[str]] = {
    "whole": [""],
    "split": [f".{half}" for half in SPLIT],
    "pass": [".encoder", ""],
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def create(request: Request, *, form: Form) -> "OrtRunner":
    """Open the files of ``graphs``; see ``trt_code.runners.create``.

    If the decoder has a separate file, its canvas ends with the longest translation.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("onnxruntime is not installed (make env)") from error
    if _PROVIDERS[request.device] not in onnxruntime.get_available_providers():
        raise Unavailable("this onnxruntime has no CUDA (pip install onnxruntime-gpu instead)")
    from trt_code.runners.pairing import check_file

    names, command = graphs(request.precision, request.device, form)
    files = [request.folder / file for file in names]
    path = request.folder / graphs(request.precision, request.device).files[0]
    runner = OrtRunner(request, path, files)
    check_file(files[-1], runner.metadata, request, command)
    if request.device == "cpu" and form != "split":
        runner.int8_report = path
    return runner


def graphs(precision: str, device: str, form: Form = "whole") -> Graphs:
    """Return the exported file for FP32, otherwise the patched file; of some forms, its two halves.

    INT8 on a CPU uses the exported file of the quantised checkpoint, for which ONNX Runtime has integer
    kernels. The patched graph computes in FP16 between them, which a CPU can only emulate.
    """
    target = ("onnx" if precision == "fp32" else "patch") + ("-split" if form == "split" else "")
    if precision == "fp32":
        stem, command = "model", f"make {target}"
    else:
        stem = _INT8 if (precision, device) == ("int8", "cpu") else f"model.{precision}"
        command = f"make {target} PRECISION={precision}"
    return Graphs(tuple(f"{stem}{half}.onnx" for half in _HALVES[form]), command)


class OrtRunner(Runner):
    """One ONNX Runtime session, or two that take turns.

    Args:
        request: the model, device and options.
        path: the network's name in messages.
        files: the file, or the files of the two halves.

    Raises:
        UserError: a file is not an ONNX model of this project.
    """

    def __init__(self, request: Request, path: Path, files: list[Path]):
        super().__init__(request.name, request.precision, request.device)
        self._path = path
        self._memory = ResidentMemory() if self.device == "cpu" else DeviceMemory()
        from onnx_export.marks import positions
        from onnx_export.split_session import SplitSession, signature_names

        self._is_split = len(files) > 1
        sessions = [_open(file, request) for file in files]
        if self._is_split:
            self._session = SplitSession(*sessions, path, request.max_iter)
        else:
            (self._session,) = sessions
            if signature_names(self._session) != ([*WHOLE.inputs], OUTPUTS):
                raise UserError(f"{path} has other inputs or outputs; make it with `make onnx`")
        self.metadata = sessions[0].get_modelmeta().custom_metadata_map
        self.max_source, _ = positions(self.metadata, path)

    def run(self, src_tokens: np.ndarray) -> Output:
        with self._failures():
            return Output(*self._session.run(OUTPUTS, {SRC_TOKENS: src_tokens}))

    def _several(self, src_tokens: np.ndarray, count: int) -> Found:
        def decode(lengths: np.ndarray) -> Output:
            found = self._session.decode(src_tokens, encoded, lengths)
            return Output(*(found[name] for name in OUTPUTS))

        with self._failures():
            encoded, predicted = self._session.encode(src_tokens)
            widest = self._session.canvas_width(src_tokens)
            return translate_lengths(predicted, count, widest, decode)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn ONNX Runtime's errors into ``UserError``: wrong shapes fail at the run, not at the load."""
        try:
            yield
        except Exception as error:  # onnxruntime's own types differ between versions
            reason = str(error).splitlines()[0]
            raise UserError(f"ONNX Runtime fails in {self._path}: {reason}") from error

    def _device_ms(self, src_tokens: np.ndarray, repeats: int) -> list[float]:
        if self.device == "cpu" or self._is_split:
            return []  # the host chooses the canvas between the halves, so its clock counts
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


def _open(path: Path, request: Request):
    from onnx_export.session import open_session

    precision, device = request.precision, request.device
    providers = [_PROVIDERS[device]]
    if device == "cuda":
        providers = [(_PROVIDERS[device], {"use_tf32": int(precision == "tf32")})]
    # a GPU computes in low precision; for a CPU the graph contains each rounding step
    native, patched = device == "cuda", precision != "fp32" and not path.name.startswith(_INT8)
    model = _with_reference_functions(path, native) if patched else None
    # on a CPU the fused kernel of sum and norm is slower than two kernels: 12 % of the demo at 16 x 32
    slow = ["SkipLayerNormFusion"] if device == "cpu" else []
    return open_session(path, providers, request.threads, model, disabled_optimizers=slow)


def _with_reference_functions(path: Path, native: bool):
    from onnx_export.onnx_file import load_onnx, read_graph
    from onnx_export.reference import with_reference_functions

    # the graph with rounding steps has other weights; a GPU reads those of the file
    read = read_graph if native else load_onnx
    try:
        return with_reference_functions(read(path), native=native)
    except ValueError as error:
        raise UserError(f"{path}: {error}; make it again with `make patch`") from error


_PRECISIONS = {"cpu": ("fp32", "fp16", "bf16", "int8"), "cuda": GRAPH_PRECISIONS}

RUNNERS = (
    RunnerSpec(
        "ort",
        create,
        _PRECISIONS,
        reads="onnx",
        graphs=graphs,
        options={"form": "whole"},
    ),
    RunnerSpec(
        "ort",
        create,
        _PRECISIONS,
        families=("iterative",),
        reads="onnx",
        graphs=functools.partial(graphs, form="pass"),
        cuts_canvas=True,
        n_best=True,
        options={"form": "pass"},
    ),
    RunnerSpec(
        "ort-split",
        create,
        _PRECISIONS,
        reads="onnx",
        graphs=functools.partial(graphs, form="split"),
        cuts_canvas=True,
        n_best=True,
        options={"form": "split"},
    ),
)
