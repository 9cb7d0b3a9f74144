"""``Translator`` as a program uses it, and the wheel in an environment that has never seen the clone."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from train_model.cli import UserError
from train_model.model_folder import find_model
from trt_code import build_engine
from trt_code.engine import gpu
from trt_code.native import library
from trt_code.native.library import library_path
from trt_code.tests.engine import mock_tensorrt
from trt_code.tests.engine.graphs import write_graph
from trt_code.tests.tiny import SENTENCES
from trt_code.text import api
from trt_code.text.graphs import cache_folder, ensure_built

ROOT = Path(api.__file__).parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def translator(tiny_folder, cache):
    with api.Translator(tiny_folder, device="cpu", cache=cache) as translator:
        yield translator


def test_what_is_exported_is_kept(translator, tiny_folder, cache, capfd):
    assert translator.runner == "native"
    assert [path.name for path in cache.glob("*/*/model.*")] == ["model.native.safetensors"]
    with api.Translator(tiny_folder, device="cpu", cache=cache) as second:
        assert second.translate(SENTENCES) == translator.translate(SENTENCES)
    assert capfd.readouterr().err == ""


def test_without_a_compiler_onnx_runtime_translates(translator, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "find_compiler", no_compiler)
    with api.Translator(tiny_folder, device="cpu", cache=tmp_path) as second:
        assert second.runner == "ort-split"
        assert second.translate(SENTENCES) == translator.translate(SENTENCES)
    files = sorted(path.name for path in tmp_path.glob("*/*/*.onnx"))
    assert files == ["model.decoder.onnx", "model.encoder.onnx"]


def no_compiler():
    raise library.NoLibrary("there is no C++ compiler")


def test_another_checkpoint_has_another_cache(tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "tiny")
    before = cache_folder(find_model(str(copy)), tmp_path)
    os.utime(copy / "checkpoint.pt", (1, 1))
    assert cache_folder(find_model(str(copy)), tmp_path) != before


def test_threads_share_a_translator(translator):
    expected = translator.translate(SENTENCES)
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda line: translator.translate([line])[0], SENTENCES * 8))
    assert found == expected * 8
    assert len(set(expected)) > 3


FORK = """
import os, signal, sys, threading
import torch
from trt_code.text.api import Translator

folder, cache, runner, *lines = sys.argv[1:]
translator = Translator(folder, runner=runner, device="cpu", cache=cache, threads=2)
expected = translator.translate(lines)
torch.ones(1_000_000).exp()  # starts the threads of OpenMP
begun, ended = threading.Event(), threading.Event()

def translate():
    while not ended.is_set():
        translator.translate(lines * 50)
        begun.set()

thread = threading.Thread(target=translate)
thread.start()
begun.wait()
for _ in range(2):
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            translator.translate(lines)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        translator.close()
        with Translator(folder, runner=runner, device="cpu", cache=cache, threads=2) as own:
            same = own.translate(lines) == expected
        torch.ones(1_000_000).exp()
        os._exit(0 if same else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
ended.set()
thread.join()
"""


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_a_fork_while_another_thread_translates(runner, tiny_folder, cache, translator):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, tiny_folder, cache, runner, *SENTENCES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    lines = done.stdout.splitlines()
    assert lines[1::2] == ["0"] * 2, done.stderr[-2000:]
    for refusal in lines[::2]:
        assert refusal.startswith("UserError this translator belongs to process ")


def test_hypotheses_and_scores_belong_together(translator):
    batch = translator.translate_batch([*SENTENCES, ""], n_best=2)
    # with random weights the first token is not always bos, and bos is not part of a hypothesis
    for best, text in zip(batch.texts, translator.translate(SENTENCES), strict=False):
        assert text.endswith(best[0])
    assert [len(line) for line in batch.texts] == [2] * len(SENTENCES) + [0]
    for texts, scores, tokens, positional in zip(*batch, strict=True):
        for text, score, units, values in zip(texts, scores, tokens, positional, strict=True):
            shown = [unit for unit in units if not unit.startswith(("madeupword", "<"))]
            assert f"{' '.join(shown)} ".replace("@@ ", "").rstrip() == text
            assert len(units) == len(values)
            assert min(values) - 1 <= score <= max(values) + 1
    texts, *rest = translator.translate_batch(["one"], return_scores=False)
    assert (len(texts), rest) == (1, [[], [], []])


def test_what_is_refused(translator, tiny_folder, cache):
    with pytest.raises(UserError, match="line 2: the model's dictionary has no 'ж'"):
        translator.translate(["one", "ж"])
    for sentences in ("one", {"one"}, {"one": "two"}):
        with pytest.raises(TypeError, match="a list of sentences"):
            translator.translate(sentences)
    with pytest.raises(UserError, match=r"runner is one of auto, native, .*, not 'fast'"):
        api.Translator(tiny_folder, device="cpu", cache=cache, runner="fast")
    closed = api.Translator(tiny_folder, device="cpu", cache=cache)
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        closed.translate(["one"])


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 100_000},
        {"threads": -1},
        {"beam": 0},
        {"beam": 10**9},
        {"len_penalty": float("nan")},
        {"max_iter": 10**12},
        {"max_tokens": 0},
        {"max_sentences": -1},
        {"candidates": 10**9, "judge": "demo-ar"},
    ],
)
def test_numbers_beyond_a_machine(tiny_folder, cache, options):
    (name, *_) = options
    with pytest.raises(UserError, match=f"^{name} is from .* to .*, not "):
        api.Translator(tiny_folder, device="cpu", cache=cache, runner="torch", **options)


NO_NUMBERS = (None, "1", 1.5, True, b"x", [], object())


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("threads", NO_NUMBERS, "is a whole number"),
        ("max_tokens", NO_NUMBERS, "is a whole number"),
        ("max_sentences", NO_NUMBERS, "is a whole number"),
        ("beam", NO_NUMBERS[1:], "is a whole number"),
        ("max_iter", NO_NUMBERS[1:], "is a whole number"),
        ("candidates", NO_NUMBERS[1:], "is a whole number"),
        ("len_penalty", ("1", True, [], object()), "is a number"),
        ("runner", (None, "fast", [], 1), "is one of auto, native, "),
        ("device", (None, "gpu", [], b"cpu"), "is one of auto, cpu, cuda"),
        ("precision", (None, "fp64", {}, 16), "is one of auto, fp32, "),
        ("unknown", ("drp", "", 1, []), "is one of refuse, keep, drop"),
        ("too_long", (None, "", "truncate"), "is one of refuse, cut"),
        ("on_error", (None, "skp"), "is one of stop, skip"),
        ("kernels", (None, "later"), "is one of eager, lazy, none"),
        ("cuda_graph", (None, True), "is one of runner, library, none"),
        ("model", (None, 1, b"demo", "", "a\0b"), "is a path"),
        ("cache", ("", [], b"x", "\ud800"), "is a path"),
        ("build_dir", ("", " ", {}, 1), "is a path"),
        ("judge", ("", 1), "is a path"),
    ],
)
def test_values_of_other_types_are_one_line(tiny_folder, cache, option, values, message):
    """A misspelled choice was taken for another one."""
    usual = {"model": tiny_folder, "device": "cpu", "cache": cache, "runner": "torch"}
    for value in values:
        with pytest.raises(
            UserError, match=f"^{option} {message}.*, not |^{option} {message}, not "
        ):
            api.Translator(**usual | {option: value})


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_next_to_here_and_paths_of_both_kinds(tiny_folder, cache, monkeypatch, kind):
    monkeypatch.chdir(tiny_folder.parent)
    model = f"./{tiny_folder.name}" if kind is str else tiny_folder
    with api.Translator(model, device="cpu", cache=kind(cache), runner="torch") as translator:
        assert translator.translate(["one"])


@pytest.mark.parametrize("lines", [[1], ["one", None], [b"one"], [["one"]], b"one", range(2)])
def test_sentences_of_other_types(translator, lines):
    for method in (translator.translate, translator.translate_batch, translator.translations):
        with pytest.raises(TypeError, match=r"^sentence \d is of type .*; give strings"):
            method(lines)


@pytest.mark.parametrize("options", [{"n_best": 0}, {"n_best": 10**9}, {"beam": -1}])
def test_numbers_beyond_a_batch(translator, options):
    (name,) = options
    with pytest.raises(UserError, match=f"^{name} is from 1 to 1024, not "):
        translator.translate_batch(["one"], **options)
    with pytest.raises(UserError, match="n_best is from 0 to 1024"):
        translator.translations(["one"], n_best=10**9)
    for option in ("n_best", "first_line"):
        with pytest.raises(UserError, match=f"{option} is a whole number, not '1'"):
            translator.translations(["one"], **{option: "1"})
    with pytest.raises(
        UserError, match="3 translations per sentence need a beam of 3 or more, not 2"
    ):
        translator.translate_batch(["one"], beam=2, n_best=3)


def test_a_sentence_unlike_the_training_text_warns(tiny_folder, tmp_path, recwarn):
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    known = (folder / "model.yaml").read_text().replace("  codes:", "  longest: 3\n  codes:")
    (folder / "model.yaml").write_text(known)
    with api.Translator(folder, device="cpu", runner="torch") as translator:
        translator.translate(["one"])
        assert not recwarn
        with pytest.warns(UserWarning, match="line 2: 4 tokens, .* may be wrong") as warned:
            translator.translate(["one", "one two"])
        assert warned[0].filename == __file__
        with pytest.warns(UserWarning, match="line 1: 4 tokens"):
            translator.translate_batch(["one two"])


def test_int8_is_calibrated_and_kept(tiny_folder, cache, translator, capfd):
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    with api.Translator(tiny_folder, device="cpu", cache=cache, precision="int8") as quantized:
        assert (quantized.runner, quantized.precision) == ("native", "int8")
        found = quantized.translate(SENTENCES)
    assert "for INT8, once" in capfd.readouterr().err
    with api.Translator(
        tiny_folder, device="cpu", cache=cache, precision="int8", runner="torch"
    ) as same:
        assert len(same.translate(SENTENCES)) == len(found)
    assert capfd.readouterr().err == ""


def test_engines_need_a_gpu(tiny_folder, cache, monkeypatch):
    monkeypatch.setattr(gpu, "installed_gpus", lambda: ())
    for runner in ("trt", "trt-split"):
        with pytest.raises(UserError, match="engines run on a GPU, and the driver shows none here"):
            api.Translator(tiny_folder, device="cuda", cache=cache, runner=runner, precision="fp16")
        with pytest.raises(UserError, match="TensorRT runs on a GPU only"):
            api.Translator(tiny_folder, device="cpu", cache=cache, runner=runner, precision="fp16")


@pytest.mark.parametrize(
    ("runner", "halves"), [("trt", [""]), ("trt-split", [".encoder", ".decoder"])]
)
def test_engines_are_built_once(runner, halves, tiny_folder, tmp_path, monkeypatch, capfd):
    """The builder is a mock, and the patched graphs already exist."""
    monkeypatch.chdir(tmp_path)
    mock_tensorrt.install(monkeypatch)
    monkeypatch.setattr(gpu, "installed_gpus", lambda: (gpu.Gpu("one", "9.0"),))
    files = find_model(str(tiny_folder))
    graphs = [Path("cache", files.name, f"model.fp16.plain{half}.onnx") for half in halves]
    graphs[0].parent.mkdir(parents=True)
    for graph in graphs:
        write_graph(graph)
    ensure_built(files, "cache", runner, "fp16", "cuda")
    assert "building TensorRT engines of tiny" in capfd.readouterr().err
    plans = {path.name for path in graphs[0].parent.glob("*.plan")}
    assert plans == {graph.with_suffix(".plan").name for graph in graphs}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    monkeypatch.setattr(build_engine, "main", None)
    ensure_built(files, "cache", runner, "fp16", "cuda")
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    reply = subprocess.run([*command, "-w", output, ROOT], capture_output=True, text=True)
    assert reply.returncode == 0, reply.stderr
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The bin folder of a fresh environment with the wheel and this environment's other packages."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib"))
    install = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q"]
    subprocess.run([*install, "--no-deps", "--no-index", wheel], check=True)
    return folder / "bin"


def test_the_wheel_has_one_package_without_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "lite_transformer_trt",
        "lite_transformer_trt-0.1.0.dist-info",
    }
    stages = "lite_transformer_trt/stages"
    for needed in (
        "train_model/configs/demo.yaml",
        "trt_code/kernels/dynamic_conv.cu",
        "trt_code/CrfDecodePlugin",
        "data_model/demo/checkpoint.pt",
        "data_model/demo/model.yaml",
    ):
        assert any(name.startswith(f"{stages}/{needed}") for name in names), needed
    assert not [name for name in names if "/tests/" in name or name.endswith(".pyc")]


PROGRAM = """
import sys
from pathlib import Path
from lite_transformer_trt import Translator
import trt_code
assert Path(trt_code.__file__).is_relative_to(sys.prefix), trt_code.__file__
with Translator(sys.argv[1], device="cpu") as translator:
    print(translator.translate(sys.argv[2:]))
"""


def test_the_wheel_translates(environment, tiny_folder, cache, translator, tmp_path):
    variables = {"PATH": os.environ["PATH"], "LITE_TRANSFORMER_TRT_CACHE": str(cache)}

    def run(*command):
        reply = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        return reply.returncode, reply.stdout, reply.stderr

    # compiled by the fixture `translator`; the wheel has the same sources
    (cache / "native").mkdir()
    shutil.copy(library_path(), cache / "native")
    expected = translator.translate(SENTENCES)
    found = run(environment / "python", "-c", PROGRAM, tiny_folder, *SENTENCES)
    assert found == (0, f"{expected}\n", "")
    console = environment / "lite-transformer-trt"
    options = ("--model", tiny_folder, "--device", "cpu")
    found = run(console, "translate", *options, *SENTENCES)
    assert found == (0, "".join(f"{line}\n" for line in expected), "")
    status, shown, _ = run(console, "models")
    assert status == 0
    assert "demo" in shown
    status, shown, _ = run(console, "patch", "--help")
    assert status == 0
    assert shown.startswith("usage: lite-transformer-trt patch")
    several = run(console, "translate", *options, "--runner", "ort", "--n-best", "3", "one")
    assert (several[0], several[1]) == (2, "")
    # without an export
    assert several[2].startswith("error: ort gives one translation per sentence")
    status, _, refused = run(console, "qat")
    assert status == 2
    assert refused.startswith(
        "error: there is no build/demo-ptq/checkpoint.pt, from which it starts"
    )
    assert run(console, "fly")[0::2] == (2, "error: no command 'fly'; choose from " + _commands())
    assert list(tmp_path.iterdir()) == []


def _commands() -> str:
    source = ROOT / "trt_code/package/lite_transformer_trt/__main__.py"
    lines = source.read_text().split("COMMANDS = {\n")[1].split("}")[0].splitlines()
    return ", ".join(line.split('"')[1] for line in lines) + "\n"
