"""The Triton repository: its configurations by Triton's schema, its models run without Triton."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from train_model.cli import UserError
from train_model.data.dictionary import Dictionary
from train_model.data.tokenizer import Tokenizer
from trt_code.build_engine import main as build_engine
from trt_code.engine.profiles import Shape
from trt_code.runners import create
from trt_code.tests.engine import mock_tensorrt
from trt_code.tests.engine.graphs import write_graph
from trt_code.tests.tiny import SENTENCES
from trt_code.tests.triton.triton_stand_in import Server, model_config, run_with
from trt_code.text.translator import LineTranslator
from trt_code.triton import repository
from trt_code.triton.text_format import Enum, dump


@pytest.fixture
def zoo(monkeypatch, tiny_files):
    monkeypatch.setattr(repository, "find_model", lambda name, build_dir: tiny_files)


@pytest.fixture
def onnx_repository(zoo, tiny_build, tmp_path) -> Path:
    output = tmp_path / "triton"
    repository.main(
        ["--build-dir", str(tiny_build), "--output", str(output), "--bucket", "8", "--bucket", "16"]
    )
    return output


def test_text_format():
    message = {"s": 'a"b', "e": Enum("E"), "t": True, "r": [1, 2], "m": [{"x": 1}, {}]}
    assert dump(message) == 's: "a\\"b"\ne: E\nt: true\nr: 1\nr: 2\nm {\n  x: 1\n}\nm {\n}\n'


def test_served_translations_are_the_translators(
    onnx_repository, tiny_files, tiny_build, monkeypatch
):
    server = Server(onnx_repository / "models", monkeypatch)
    with create("ort", tiny_files, "fp32", "cpu", build_dir=tiny_build, threads=1) as runner:
        translator = LineTranslator(runner, Tokenizer.from_files(tiny_files))
        expected = [translation.text for translation in translator.translate(SENTENCES)]
    assert server.translate(SENTENCES) == [expected]
    assert server.translate(*([s] for s in SENTENCES)) == [[text] for text in expected]


def test_a_sentence_unlike_the_training_gets_the_translators_warning(
    tiny_files, tiny_build, tmp_path, monkeypatch
):
    text = dataclasses.replace(
        tiny_files.text, untrained={'the word "nine"': r"\bnine\b"}, longest=4
    )
    files = dataclasses.replace(tiny_files, text=text)
    monkeypatch.setattr(repository, "find_model", lambda name, build_dir: files)
    repository.main(["--build-dir", str(tiny_build), "--output", str(tmp_path / "triton")])
    server = Server(tmp_path / "triton" / "models", monkeypatch)
    asked = np.array([[b"one"], [b"nine"], [b"one two three"]], object)
    assert server.answer(asked, output=1) == [
        [
            "",
            'it was not trained on the word "nine": the translation may be wrong',
            "5 tokens, and 4 is the most that it was trained on: the translation may be wrong",
        ]
    ]


def test_sentences_of_all_requests_share_batches_by_length(onnx_repository, monkeypatch):
    server = Server(onnx_repository / "models", monkeypatch)
    long = "nine hundred and thirty seven and one and two"
    replies = server.translate(["one"], ["one", long], ["two"], [long])
    assert sorted(server.network_shapes) == [(2, 16), (3, 8)]
    assert replies[1] == [replies[0][0], replies[3][0]]
    server.network_shapes.clear()
    server.translate(*(["one"] for _ in range(40)))
    assert server.network_shapes == [(16, 8), (16, 8), (8, 8)]


def test_an_error_of_the_network_is_the_answer(onnx_repository, monkeypatch):
    server = Server(onnx_repository / "models", monkeypatch)
    server.network_error = "out of memory"
    assert server.translate(["one"], [" "]) == [
        "out of memory",
        "the text is empty; give a sentence to translate",
    ]


def test_an_answer_of_another_form_fails_its_batch_only(onnx_repository, monkeypatch):
    server = Server(onnx_repository / "models", monkeypatch)
    server.change = lambda name, output: output[:1]
    long = "nine hundred and thirty seven and one and two"
    *refusals, answer = server.translate(["one"], ["two"], [long])
    assert all("the network's answer cannot be read: ValueError" in text for text in refusals)
    server.change = lambda name, output: output
    assert answer == server.translate([long])[0]


def test_what_cannot_be_encoded_is_refused_with_its_reason(onnx_repository, monkeypatch):
    server = Server(onnx_repository / "models", monkeypatch)
    refusals = server.translate([" "], ["one " * 30], ["one"])
    assert "the text is empty" in refusals[0]
    assert refusals[1] == "a sentence has 32 tokens and this server takes 24; split it"
    assert isinstance(refusals[2], list)


def test_a_request_of_any_form_leaves_the_others_alone(onnx_repository, monkeypatch):
    server = Server(onnx_repository / "models", monkeypatch)
    odd = [
        np.empty((0, 1), object),
        np.array([[b"one", b"two"]], object),
        np.array([b"one"], object),
        np.array([[7]], object),
        np.array([[b"\xff\xfe"]], object),
        np.array([[b"x" * 3_000_000]], object),
    ]
    good = np.array([["\ufeffone".encode()]], object)
    *refusals, answer = server.answer(*odd, good)
    assert answer == server.translate(["one"])[0]
    assert all(isinstance(refusal, str) for refusal in refusals)
    assert refusals[:3] == [
        "TEXT is [sentences, 1], not [0, 1]",
        "TEXT is [sentences, 1], not [1, 2]",
        "TEXT is [sentences, 1], not [1]",
    ]
    assert "cannot be read: AttributeError" in refusals[3]
    assert refusals[4] == "the text is not UTF-8"
    assert "a sentence has 3000000 characters" in refusals[5]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sentence_whose_scores_are_not_numbers_is_refused_and_the_others_are_answered(
    onnx_repository, monkeypatch, value
):
    server = Server(onnx_repository / "models", monkeypatch)
    expected = server.translate(["one"], ["two"])

    def change(name, output):
        if name == "output_scores":
            output[0] = value
        return output

    server.change = change
    refusal, answer = server.translate(["one"], ["two"])
    assert refusal == "the network gives scores that are infinite or not numbers"
    assert answer == expected[1]


def test_text_model_brings_the_tokenizer_it_imports(onnx_repository, tmp_path):
    version = onnx_repository / "models/lite_translate/1"
    code = "import train_model.data.tokenizer as module; print(module.__file__)"
    reply = run_with(version, code, tmp_path)
    assert reply.stdout.strip() == str(version / "train_model/data/tokenizer.py"), reply.stderr


def test_onnx_network_runs_on_the_cpu_with_its_buckets_warmed_up(onnx_repository):
    config = model_config(onnx_repository / "models/lite_network/config.pbtxt")
    assert config.backend == "onnxruntime"
    assert [group.kind for group in config.instance_group] == [config.instance_group[0].KIND_CPU]
    warm = [(w.batch_size, list(w.inputs["src_tokens"].dims)) for w in config.model_warmup]
    assert warm == [(16, [8]), (16, [16]), (16, [24])]
    assert "tensorrt" not in (onnx_repository / "serve.sh").read_text()


def test_text_is_gathered_and_the_network_is_not_kept_waiting(onnx_repository):
    configs = {
        p.parent.name: model_config(p) for p in onnx_repository.glob("models/*/config.pbtxt")
    }
    assert configs["lite_translate"].dynamic_batching.max_queue_delay_microseconds == 1000
    assert configs["lite_network"].HasField("dynamic_batching")
    assert configs["lite_network"].dynamic_batching.max_queue_delay_microseconds == 0
    assert configs["lite_translate"].max_batch_size == 64
    assert all((onnx_repository / "models" / name / "1").is_dir() for name in configs)


@pytest.fixture
def plan_build(zoo, monkeypatch, tmp_path, tiny_files) -> Path:
    """A build folder with a mock plan, its plugins and their loader."""
    monkeypatch.chdir(tmp_path)
    mock_tensorrt.install(monkeypatch)
    plugins = Path("build/plugins")
    plugins.mkdir(parents=True)
    for name in ("liblite_plugins_trt11.so", "liblite_plugins_trt11_loader.so"):
        (plugins / name).write_bytes(b"\x7fELF")
    graph = Path("build/tiny/model.fp16.onnx")
    graph.parent.mkdir()
    write_graph(graph, plugin="LiteTopK")
    flags = ["--onnx", str(graph), "--output", "build/tiny/model.fp16.plan"]
    flags += ["--plugins", str(plugins / "liblite_plugins_trt11.so")]
    one, many = ("1x1", "1x32", "1x100"), ("2x1", "16x32", "32x100")
    for shapes in (one, many):
        flags += [
            f"--{name}={shape}" for name, shape in zip(("min", "opt", "max"), shapes, strict=True)
        ]
    build_engine(flags)
    return tmp_path


def test_plan_with_its_plugins(plan_build):
    repository.main([])
    folder = Path("build/triton")
    config = model_config(folder / "models/lite_network/config.pbtxt")
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 32
    assert list(config.instance_group[0].profile) == ["0", "1"]
    graphs = {
        (g.batch_size, *g.input["src_tokens"].dim) for g in config.optimization.cuda.graph_spec
    }
    assert graphs == {(b, n) for b in (1, 2, 4, 8, 16, 32) for n in (8, 16, 32, 64, 100)}
    assert (folder / "models/lite_network/1/model.plan").is_file()
    assert {path.name for path in (folder / "plugins").iterdir()} == {
        "liblite_plugins_trt11.so",
        "liblite_plugins_trt11_loader.so",
    }
    line = (folder / "serve.sh").read_text().splitlines()[-1]
    assert (
        '--backend-config="tensorrt,plugins=$here/plugins/liblite_plugins_trt11_loader.so"' in line
    )


def test_serve_script_starts_tritonserver_on_its_own_folder(plan_build, monkeypatch):
    repository.main([])
    Path("tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    Path("tritonserver").chmod(0o755)
    monkeypatch.setenv("PATH", f"{plan_build}:/usr/bin:/bin")
    command = ["build/triton/serve.sh", "--http-port=9000"]
    reply = subprocess.run(command, capture_output=True, text=True, check=True)
    here = plan_build / "build/triton"
    assert reply.stdout.splitlines() == [
        f"--model-repository={here}/models",
        f"--backend-config=tensorrt,plugins={here}/plugins/liblite_plugins_trt11_loader.so",
        "--http-port=9000",
    ]


def test_load_script_sweeps_with_the_models_own_sentences(onnx_repository, monkeypatch, tmp_path):
    (tmp_path / "perf_analyzer").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "perf_analyzer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    command = [onnx_repository / "load.sh", "-u", "server:8001"]
    reply = subprocess.run(command, capture_output=True, text=True, check=True)
    arguments = reply.stdout.splitlines()
    assert arguments[:2] == ["-m", "lite_translate"]
    assert arguments[-2:] == ["-u", "server:8001"]
    data = json.loads(Path(arguments[arguments.index("--input-data") + 1]).read_text())
    assert data == {"data": [{"TEXT": [sentence]} for sentence in SENTENCES]}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda: Path("build/plugins/liblite_plugins_trt11_loader.so").unlink(), "make plugins"),
        (
            lambda: Path("build/tiny/model.fp16.plan").write_bytes(b"x"),
            "not the file that was built",
        ),
        (
            lambda: write_graph(Path("build/tiny/model.fp16.onnx"), ("b", "s")),
            "older than its graph",
        ),
    ],
)
def test_plan_that_does_not_fit_is_refused_and_nothing_replaced(plan_build, spoil, reason):
    repository.main([])
    before = sorted(Path("build/triton").rglob("*"))
    spoil()
    with pytest.raises(UserError, match=reason):
        repository.main([])
    assert sorted(Path("build/triton").rglob("*")) == before


def test_a_plan_of_other_weights_is_refused(plan_build, tiny_files):
    """Without its graph too, since the plan's JSON has the graph's metadata."""
    graph, plan = (Path(f"build/tiny/model.fp16.{kind}") for kind in ("onnx", "plan"))
    write_graph(graph, metadata={"config": json.dumps({"made_from": ["0" * 64]})})
    build_engine(["--onnx", str(graph), "--output", str(plan)])
    graph.unlink()
    reason = (
        f"{plan} is of other weights or options than {tiny_files.checkpoint}: make it again (touch "
        f"{tiny_files.checkpoint}; make engine-fp16 MODEL=tiny)"
    )
    with pytest.raises(UserError, match=re.escape(reason)):
        repository.main([])
    assert not Path("build/triton").exists()


def test_batches_that_no_profile_takes_are_refused(plan_build):
    with pytest.raises(UserError, match="no profile of the plan takes 33x8"):
        repository.main(["--max-batch", "40"])


def test_a_second_writing_replaces_the_first(onnx_repository, zoo, tiny_build):
    (onnx_repository / "models/stale").mkdir()
    repository.main(["--build-dir", str(tiny_build), "--output", str(onnx_repository)])
    assert not (onnx_repository / "models/stale").exists()
    assert [path.name for path in onnx_repository.parent.iterdir()] == ["triton"]


@pytest.mark.parametrize("names", [["precious"], ["precious", "serve.sh"], ["models"]])
def test_a_folder_of_something_else_is_left_alone(zoo, tiny_build, tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        repository.main(["--build-dir", str(tiny_build), "--output", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_nothing_is_built(zoo, tmp_path):
    with pytest.raises(UserError, match=r"no graph at .*model\.onnx; make it with `make onnx"):
        repository.main(["--build-dir", str(tmp_path), "--output", str(tmp_path / "triton")])


def test_buckets_end_at_the_longest():
    class Network:
        longest = 100

        def accepts(self, shape: Shape) -> bool:
            return True

    assert repository.choose_buckets(Network(), [64, 8, 100, 128, 8], 4) == [8, 64, 100]


def test_model_without_text(monkeypatch, tiny_files, tiny_build, tmp_path):
    mute = dataclasses.replace(tiny_files, text=None)
    monkeypatch.setattr(repository, "find_model", lambda name, build_dir: mute)
    with pytest.raises(UserError, match="has no text"):
        repository.main(["--build-dir", str(tiny_build), "--output", str(tmp_path / "triton")])


def test_dictionaries_of_another_network_are_refused(
    zoo, tiny_build, tiny_files, tmp_path, monkeypatch
):
    more = Dictionary.load(tiny_files.src_dict)
    Dictionary([*more.counts, ("eleven", 1)]).save(tmp_path / "dict.txt")
    other = dataclasses.replace(tiny_files, src_dict=tmp_path / "dict.txt")
    monkeypatch.setattr(repository, "find_model", lambda name, build_dir: other)
    with pytest.raises(UserError, match=r"was exported for a dictionary of .* give the dictionary"):
        repository.main(["--build-dir", str(tiny_build), "--output", str(tmp_path / "triton")])
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("profiles", [{"min": [1, 1], "opt": [1, 8], "max": [10**12, 10**9]}]),
        ("profiles", [{"min": [1, 1], "opt": [1, 8], "max": [-1, -5]}]),
        ("profiles", [{"min": [1, 1], "opt": [1, 8], "max": [1.5, 8.5]}]),
        ("profiles", [{"min": [1, 1], "opt": [1, 8], "max": [True, 8]}]),
        ("profiles", [{"min": ["a", "b"], "opt": ["a", "b"], "max": ["a", "b"]}]),
        ("profiles", [{"min": {}, "opt": {}, "max": {}}]),
        ("version_compatible", "x"),
    ],
    ids=str,
)
def test_a_plan_of_impossible_sizes_is_one_line(plan_build, key, value):
    sidecar = Path("build/tiny/model.fp16.plan.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {key: value}))
    with pytest.raises(UserError, match=r"build the engine again|excludes its own opt"):
        repository.main([])


def test_a_plan_with_an_endless_description_is_one_line(plan_build):
    Path("build/tiny/model.fp16.plan.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="build the engine again"):
        repository.main([])


@pytest.mark.parametrize(
    "name", ["lib$(touch pwned).so", 'lib";touch pwned;".so', "lib x.so", "passwd"]
)
def test_no_name_of_a_plugin_becomes_a_command(plan_build, name):
    sidecar = Path("build/tiny/model.fp16.plan.json")
    described = json.loads(sidecar.read_text())
    library = Path("build/plugins") / name
    library.write_bytes(Path("build/plugins/liblite_plugins_trt11.so").read_bytes())
    library.with_name(f"{library.stem}_loader.so").write_bytes(b"\x7fELF")
    described["plugins"][0]["path"] = f"../plugins/{name}"
    sidecar.write_text(json.dumps(described))

    with pytest.raises(UserError, match=r"only letters, digits|make plugins"):
        repository.main([])
    assert not Path("build/triton").exists()


def test_a_kill_leaves_the_old_repository_or_the_new_one(plan_build, monkeypatch):
    repository.main([])
    seen = []
    # one exchange of names replaces two renames
    monkeypatch.setattr(Path, "rename", lambda *_: seen.append("renamed"))
    repository.main(["--instances", "2"])
    assert not seen
    config = model_config(Path("build/triton/models/lite_network/config.pbtxt"))
    assert config.instance_group[0].count == 2
