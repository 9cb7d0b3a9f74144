"""A user's model works with every target: runs them on imported networks of both families."""

import json
from pathlib import Path

import onnx
import pytest
import torch

from onnx_export import export, verify
from onnx_export.paths import half_path
from train_model import import_model
from train_model.cli import UserError
from train_model.model_folder import find_model, model_name
from train_model.models.architectures import ARCHITECTURES
from train_model.models.checkpoint import save_checkpoint
from train_model.quantization import ptq
from train_model.tests.model_pieces import SYMBOLS, write_pieces
from train_model.tests.networks import one_pass, step_by_step
from trt_code import bench, evaluate, onnx_surgeon, translate
from trt_code.measure import sweep, throughput
from trt_code.tests.engine import real_tensorrt
from trt_code.triton import repository

SMALL = {
    "src_vocab": SYMBOLS,
    "tgt_vocab": SYMBOLS,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_kernel_size_list": (3,),
    "decoder_kernel_size_list": (3,),
    "max_source_positions": 64,
    "max_target_positions": 64,
}
CONFIGS = {
    "one-pass": one_pass(
        **SMALL,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        crf_beam_approx=8,
    ),
    "autoregressive": step_by_step(16, **SMALL),
}


class Imported:
    """A model folder outside data_model, known by its path, and a folder of what is built from it."""

    def __init__(self, kind: str, folder: Path) -> None:
        config, checkpoint = CONFIGS[kind], folder / "checkpoint_best.pt"
        torch.manual_seed(1)
        save_checkpoint(checkpoint, ARCHITECTURES[config.architecture].build(config), config)
        pieces = write_pieces(folder / "pieces")
        options = [part for name in pieces for part in (f"--{name}", str(pieces[name]))]
        given = [
            "--checkpoint",
            str(checkpoint),
            *options,
            "--languages",
            "en-de",
            "--name",
            "mine",
        ]
        import_model.main([*given, "--models", str(folder / "models")])
        self.model = str(folder / "models" / "mine")
        self.build, self.out = folder / "build", folder / "out"
        self.files = find_model(self.model)
        self.onnx = self.build / model_name(self.model) / "model.onnx"
        export.main(["--checkpoint", str(self.files.checkpoint), "--output", str(self.onnx)])

    def run(self, main, *arguments: object, output: str | None = None):
        given = ["--model", self.model, "--build-dir", str(self.build), *map(str, arguments)]
        if output is not None:
            given += ["--output", str(self.out / output)]
        return main(given)


@pytest.fixture(scope="module", params=CONFIGS)
def imported(request, tmp_path_factory) -> Imported:
    made = Imported(request.param, tmp_path_factory.mktemp(request.param))
    assert made.files.family == request.param
    return made


def test_onnx_and_verify(imported, capsys):
    given = ["--checkpoint", str(imported.files.checkpoint), "--onnx", str(imported.onnx)]
    assert verify.main(given) == 0
    assert "batches agree" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "plugins"), [("fp16", "lite"), ("bf16", "none")])
def test_patch_and_the_real_builder(imported, precision, plugins):
    output = imported.onnx.with_suffix(f".{precision}.{plugins}.onnx")
    given = ["--input", str(imported.onnx), "--output", str(output), "--precision", precision]
    assert onnx_surgeon.main([*given, "--plugins", plugins]) == 0
    assert output.is_file()
    trt = real_tensorrt.tensorrt()
    halves = [half_path(output, "encoder")] if imported.files.autoregressive else []
    for path in (output, *halves):
        reply = real_tensorrt.build(trt, onnx.load(path))
        assert reply.refused_by == "", reply.words


def test_translate(imported, capsys):
    for runner in ("torch", "ort"):
        imported.run(translate.main, "--device", "cpu", "--runner", runner, "--", "ab c", "ad")
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 5
    assert lines[:2] == lines[2:4]


def test_bench(imported):
    arguments = ("--device", "cpu", "--runner", "torch,ort", "--precision", "fp32")
    quick = ("--shape", "1x4", "--repeats", 1, "--seconds", 0.1)
    assert imported.run(bench.main, *arguments, *quick, output="bench") == 0
    rows = json.loads((imported.out / "bench" / "results.json").read_text())["rows"]
    assert [(row["runner"], row["check"]) for row in rows] == [
        ("torch", "reference"),
        ("ort", "Good"),
    ]


def test_eval(imported):
    arguments = ("--device", "cpu", "--runner", "ort", "--precision", "fp32")
    assert not imported.run(evaluate.main, *arguments, output="eval")
    (report,) = (imported.out / "eval").glob("*.json")
    assert json.loads(report.read_text())["sentences"] == 2


def test_throughput(imported):
    quick = ("--runners", 1, "--processes", 1, "--repeats", 1, "--text", imported.files.test_src)
    assert not imported.run(
        throughput.main, "--device", "cpu", "--runner", "ort", *quick, output="throughput"
    )


def test_sweep(imported):
    quick = ("--blocks", "torch:fp32,ort:fp32", "--batches", "1", "--lengths", "4")
    quick += ("--compiled-shapes", "1x4", "--repeats", 1, "--seconds", 0.1)
    status = imported.run(sweep.main, "--device", "cpu", *quick, output="sweep")
    assert not status


def test_ptq_and_its_graph(imported):
    pytest.importorskip("modelopt")
    quantized = imported.build / f"{imported.files.name}-ptq" / "checkpoint.pt"
    imported.run(ptq.main, "--text", imported.files.test_src)
    assert quantized.is_file()
    qdq = imported.onnx.with_suffix(".qdq.onnx")
    export.main(["--checkpoint", str(quantized), "--output", str(qdq)])
    patched = imported.onnx.with_suffix(".int8.onnx")
    given = ["--input", str(qdq), "--output", str(patched), "--precision", "int8"]
    assert onnx_surgeon.main(given) == 0
    if imported.files.family == "one-pass":  # what make patch-split PRECISION=int8 does
        export.main(["--checkpoint", str(quantized), "--output", str(qdq), "--split"])
        assert onnx_surgeon.main([*given, "--split"]) == 0
        assert patched.with_suffix(".decoder.onnx").is_file()
    imported.run(
        translate.main, "--device", "cpu", "--runner", "ort", "--precision", "int8", "--", "ab"
    )


def test_split_files(imported):
    given = ["--checkpoint", str(imported.files.checkpoint), "--output", str(imported.onnx)]
    if imported.files.family == "autoregressive":
        with pytest.raises(UserError, match="is always two files"):
            export.main([*given, "--split"])
        return
    export.main([*given, "--split"])
    imported.run(translate.main, "--device", "cpu", "--runner", "ort-split", "--", "ab c")


def test_triton(imported):
    if imported.files.family == "autoregressive":
        return  # refused by make before anything is built
    imported.run(repository.main, output="triton")
    folder = imported.out / "triton" / "models" / "lite_translate" / "1"
    described = json.loads((folder / "text.json").read_text())
    assert described["text"]["codes"] == "bpecodes"
    assert (folder / "bpecodes").is_file()
