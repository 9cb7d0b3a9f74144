"""An imported model with a small random network of any architecture, and the files built from it."""

import functools
from pathlib import Path

from onnx_export import export
from train_model import import_model
from train_model.model_folder import find_model, model_name
from train_model.models.checkpoint import save_checkpoint
from train_model.quantization import ptq
from train_model.tests.model_pieces import SYMBOLS, write_pieces
from train_model.tests.networks import of_architecture
from trt_code import onnx_surgeon
from trt_code.native import export as native
from trt_code.native.program import SUFFIX
from trt_code.runners import Runner, create, spec

SIZES = {
    "src_vocab": SYMBOLS,
    "tgt_vocab": SYMBOLS,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "max_source_positions": 64,
    "max_target_positions": 64,
}


class SmallModel:
    """A model folder outside data_model, known by its path; its files are built when they are first used."""

    def __init__(self, architecture: str, folder: Path) -> None:
        checkpoint, network = folder / "checkpoint_best.pt", of_architecture(architecture, **SIZES)
        save_checkpoint(checkpoint, network, network.config)
        pieces = write_pieces(folder / "pieces")
        options = [part for name in pieces for part in (f"--{name}", str(pieces[name]))]
        given = ["--checkpoint", str(checkpoint), *options, "--languages", "en-de"]
        import_model.main([*given, "--name", "mine", "--models", str(folder / "models")])
        self.name = str(folder / "models" / "mine")
        self.build, self.out = folder / "build", folder / "out"
        self.files = find_model(self.name)
        self._onnx = self.build / model_name(self.name) / "model.onnx"
        self._graphs: dict[tuple, Path] = {}

    def run(self, main, *arguments: object, output: str | None = None):
        """Call a program's ``main`` for this model."""
        given = ["--model", self.name, "--build-dir", str(self.build), *map(str, arguments)]
        if output is not None:
            given += ["--output", str(self.out / output)]
        return main(given)

    @functools.cached_property
    def quantized(self) -> Path:
        """The checkpoint of ``make ptq``."""
        self.run(ptq.main, "--text", self.files.test_src)
        return self.build / f"{self.files.name}-ptq" / "checkpoint.pt"

    def graph(self, precision: str, split: bool = False, plugins: str = "lite") -> Path:
        """Return the exported graph for fp32 and qdq (INT8 before the surgeon), else the patched graph."""
        key = precision, split, plugins
        if key not in self._graphs:
            self._graphs[key] = self._make(*key)
        return self._graphs[key]

    def _make(self, precision: str, split: bool, plugins: str) -> Path:
        flags = ["--split"] if split else []
        if precision in ("fp32", "qdq"):
            checkpoint = self.files.checkpoint if precision == "fp32" else self.quantized
            path = self._onnx if precision == "fp32" else self._onnx.with_suffix(".qdq.onnx")
            export.main(["--checkpoint", str(checkpoint), "--output", str(path), *flags])
            return path
        source = self.graph("qdq" if precision == "int8" else "fp32", split)
        form = "" if plugins == "lite" else ".plain"
        path = self._onnx.with_suffix(f".{precision}{form}.onnx")
        given = ["--input", str(source), "--output", str(path), "--precision", precision]
        assert onnx_surgeon.main([*given, "--plugins", plugins, *flags]) == 0
        return path

    def program(self, precision: str) -> Path:
        """Write the native program in FP32 or INT8, once."""
        checkpoint, stem = self.files.checkpoint, ""
        if precision == "int8":
            checkpoint, stem = self.quantized, ".qdq"
        path = self._onnx.with_suffix(stem + SUFFIX)
        if not path.is_file():
            native.main(["--checkpoint", str(checkpoint), "--output", str(path)])
        return path

    def runner(self, name: str, precision: str, device: str) -> Runner:
        """Build a runner's files, then make the runner."""
        declared = spec(name, self.files.family)
        assert declared is not None
        if precision in ("int8", "fp8"):
            self.quantized  # noqa: B018
        if declared.reads == "onnx":
            exported = (precision, device) == ("int8", "cpu")
            self.graph("qdq" if exported else precision, name == "ort-split")
        elif declared.reads == "program":
            self.program(precision)
        return create(name, self.files, precision, device, build_dir=self.build)
