"""The Makefile: its targets' commands and refusals."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from trt_code.native import library

ROOT = Path(__file__).parents[3]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

LOCKED_EXTRAS = (
    "train",
    "ray",
    "rivals",
    "dev",
    "download",
    "tensorrt",
    "nvcc",
    "build",
    "audit",
    "lock",
    "engines",
    "triton",
)
DOCTOR_FILES = ["trt_code/__init__.py", "trt_code/doctor.py"]
DOCTOR_FILES += ["trt_code/headers.py", "trt_code/engine/install.py", "trt_code/engine/__init__.py"]
DOCTOR_FILES += [f"trt_code/engine/{name}.py" for name in ("gpu", "library_alias", "tensorrt_api")]
DOCTOR_FILES += [f"train_model/{name}.py" for name in ("__init__", "cli", "interrupt", "scratch")]
DOCTOR_FILES += [
    "train_model/documents.py",
    "train_model/model_folder.py",
    "train_model/model_yaml.py",
    "train_model/models/__init__.py",
]
DOCTOR_FILES += ["train_model/models/architectures.py"]
DOCTOR_FILES += [
    "train_model/data/__init__.py",
    "train_model/data/files.py",
    "train_model/data/transfer.py",
    "train_model/file_sets.py",
]
DOCTOR_FILES += [
    f"trt_code/{name}.py" for name in ("native/__init__", "native/library", "user_cache")
]
MODELS = ("demo", "demo-ar", "wmt16", "wmt16-random")

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make")


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def clone(tmp_path):
    """Return a copy of the Makefile and the files for its checks, with nothing installed or built."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in DOCTOR_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in MODELS:
        folder = tmp_path / "data_model" / name
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "data_model" / name / "model.yaml", folder)
    for name in ("demo", "demo-ar"):
        (tmp_path / "data_model" / name / "checkpoint.pt").touch()
    return tmp_path


HOSTILE = (
    "$(shell touch pwned)",
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "; touch pwned #",
)
TEXTS = {
    "corpus": ("CORPUS", "SIZE"),
    "train": ("RECIPE",),
    "distill": ("CORPUS",),
    "import": (
        *("FROM", "CHECKPOINT", "SRC_DICT", "TGT_DICT", "CODES", "LIKE", "LANGUAGES"),
        *("TEST_SRC", "TEST_TGT", "NAME"),
    ),
    "ptq": ("KEEP",),
    "headers": ("RELEASE",),
    "bench": ("RUNNER", "DEVICE", "THREADS", "BEAM", "LENPEN", "SHAPE"),
    "eval": ("RUNNER", "CANDIDATES", "LIMIT"),
    "throughput": ("MAX_TOKENS",),
    "translate": (
        "RUNNER",
        "N_BEST",
        "CANDIDATES",
        "JUDGE",
        "UNKNOWN",
        "ON_ERROR",
        "FORMAT",
        "TEXT",
    ),
    "translate-corpus": ("IN", "OUT", "WORKERS", "ADDRESS"),
}
"""The targets that pass text to a program, and the variables with the text."""


@pytest.fixture
def spy(clone):
    """Replaces Python and records its arguments; it only runs make's questions about a model."""
    python = clone / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = train_model.model_folder ] && exec {sys.executable} "$@"\n'
        '[ "$2" = trt_code.doctor ] && exit 1\nfor word; do printf "[%s]" "$word"; done\n'
    )
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("target", TEXTS)
def test_no_text_given_to_make_is_executed(target, clone, spy):
    for value in HOSTILE:
        given = [f"{name}={value}" for name in TEXTS[target]]
        reply = make(target, f"PYTHON={spy}", *given, folder=clone)
        assert not [*clone.rglob("pwned")], value
        pieces = value.split() if target == "ptq" else [value]
        for piece in pieces if target != "corpus" else [f"[{value}-{value}]"]:
            assert piece in reply.stdout + reply.stderr


@pytest.mark.parametrize("name", ["MODEL", "PRECISION", "TEACHER", "QUANTIZED"])
def test_values_that_become_file_names_are_plain(name, clone, spy):
    for value in HOSTILE:
        goal = "distill" if name == "TEACHER" else "patch"
        reply = make(goal, f"PYTHON={spy}", f"{name}={value}", folder=clone)
        assert reply.returncode == 2
        assert len(reply.stderr.splitlines()) == 1, reply.stderr
        assert name in reply.stderr
        assert not [*clone.rglob("pwned")], value


def test_a_teacher_that_is_missing_is_one_line(clone, spy):
    reply = make("distill", f"PYTHON={spy}", "TEACHER=no-such.pt", folder=clone)
    assert (reply.returncode, reply.stdout) == (2, "")
    assert reply.stderr.startswith(
        "error: there is no checkpoint no-such.pt; give an autoregressive"
    )


def test_help_lists_every_target():
    listed = set(re.findall(r"^  ([a-z0-9-]+) ", make("help").stdout, re.MULTILINE))
    declared = set(" ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split())
    assert listed == {name for name in declared if not name.startswith(".")}
    assert make().stdout == make("help").stdout


def test_bench_makes_its_environment_first_and_builds_each_file_once(clone):
    reply = make("--dry-run", "bench", folder=clone)
    assert reply.returncode == 0, reply.stderr
    steps = ["requirements/environment.sh", "python requirements/base.lock", "onnx_export.export"]
    steps += [f"model.{precision}.onnx" for precision in ("fp32", "tf32", "fp16")]
    steps += [f"--output build/demo/model.{precision}.plain.plan" for precision in ("tf32", "fp16")]
    steps += ["trt_code.bench --model demo"]
    places = [reply.stdout.index(step) for step in steps]
    assert places == sorted(places)
    assert reply.stdout.count("-m onnx_export.export") == 2  # one file, and two halves
    assert reply.stdout.count("--output build/demo/model.onnx --split") == 1
    assert reply.stdout.count("-m trt_code.onnx_surgeon") == 3 + 2  # and two graphs without plugins
    assert reply.stdout.count("-m trt_code.engine.install --if-any") == 1
    assert reply.stdout.count("-m trt_code.build_engine --if-changed --if-any") == 2


def test_existing_files_are_not_built_again(clone):
    for name in (".venv/base.stamp", "build/demo/model.onnx", "build/demo/model.fp16.onnx"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    reply = make("--dry-run", "patch", "PRECISION=fp16", folder=clone)
    assert "trt_code" not in reply.stdout
    (clone / "data_model" / "demo" / "checkpoint.pt").touch()
    os.utime(clone / "build" / "demo" / "model.onnx", (0, 0))
    reply = make("--dry-run", "patch", "PRECISION=fp16", folder=clone)
    assert "onnx_export.export" in reply.stdout
    assert "--precision fp16" in reply.stdout


def test_halves_are_built_and_patched_together(clone):
    planned = make("--dry-run", "patch-split", "PRECISION=fp16", folder=clone).stdout
    assert planned.count("onnx_export.export") == planned.count("trt_code.onnx_surgeon") == 1
    assert planned.count("--split") == 2
    assert "--output build/demo/model.fp16.onnx" in planned
    arguments = ("engine-split", "PRECISION=fp16", "PLUGINS=lite")
    planned = make("--dry-run", *arguments, folder=clone).stdout
    for half in ("encoder", "decoder"):
        assert f"--onnx build/demo/model.fp16.{half}.onnx" in planned
        assert f"--output build/demo/model.fp16.{half}.plan" in planned
    assert "--split" not in make("--dry-run", "bench", "MODEL=demo-ar", folder=clone).stdout


def test_halves_in_int8_come_from_the_quantised_network(clone):
    planned = make("--dry-run", "patch-split", "PRECISION=int8", folder=clone).stdout
    assert (
        "--checkpoint build/demo-ptq/checkpoint.pt --output build/demo/model.qdq.onnx --split"
        in planned
    )
    assert "--input build/demo/model.qdq.onnx --output build/demo/model.int8.onnx" in planned
    arguments = ("engine-split", "PRECISION=int8", "PLUGINS=none")
    planned = make("--dry-run", *arguments, folder=clone).stdout
    assert "--input build/demo/model.qdq.onnx --output build/demo/model.int8.plain.onnx" in planned
    assert "--output build/demo/model.int8.plain.decoder.plan" in planned


@pytest.mark.parametrize("target", ["native", "bench", "eval", "onnx", "engine-int8"])
def test_every_export_reads_a_checkpoint(target, clone):
    """make's ``$<`` is the first prerequisite of the rule with the recipe, not of an earlier rule."""
    (clone / "build" / "demo-ptq").mkdir(parents=True)
    (clone / "build" / "demo-ptq" / "checkpoint.pt").touch()
    planned = make("--dry-run", target, "PRECISION=fp32 int8", "PLUGINS=none", folder=clone).stdout
    read = re.findall(r"export --checkpoint (\S+)", planned)
    assert read
    assert {*read} <= {"data_model/demo/checkpoint.pt", "build/demo-ptq/checkpoint.pt"}


@pytest.mark.parametrize("target", ["patch", "patch-split", "eval", "native", "engine-split"])
def test_precisions_have_commas_or_spaces_between_them(target, clone):
    spaces, commas = (
        make("--dry-run", target, f"PRECISION=fp16{mark}int8", "PLUGINS=none", folder=clone).stdout
        for mark in " ,"
    )
    assert spaces
    assert commas == spaces


@pytest.mark.parametrize("target", ["onnx-split", "patch-split", "engine-split"])
def test_an_autoregressive_network_is_two_files_already(target, clone):
    planned = make("--dry-run", target, "PRECISION=fp16", "MODEL=demo-ar", folder=clone).stdout
    assert planned.count("onnx_export.export") == 1
    assert "--split" not in planned
    assert "decoder" not in planned
    plans = ["fp16.plain", "fp16.plain.encoder"] if target == "engine-split" else []
    built = re.findall(r"--onnx build/demo-ar/model\.(\S+)\.onnx", planned)
    assert sorted(built) == plans


def test_a_folder_elsewhere_is_a_model_too(clone):
    shutil.copytree(clone / "data_model" / "demo", clone / "elsewhere" / "mine")
    planned = make("--dry-run", "onnx", "MODEL=elsewhere/mine", folder=clone).stdout
    found = re.search(r"--checkpoint (\S+) --output build/(\S+)/model.onnx", planned)
    assert found[1] == "elsewhere/mine/checkpoint.pt"
    assert re.fullmatch(r"mine-[0-9a-f]{10}", found[2])
    assert (
        "build/demo/model.onnx" in make("-n", "onnx", "MODEL=data_model/demo", folder=clone).stdout
    )


def test_random_weights_are_made_first(clone):
    planned = make("--dry-run", "onnx", "MODEL=wmt16-random", folder=clone).stdout
    assert planned.index("model_folder --checkpoint") < planned.index("onnx_export.export")


def test_an_autoregressive_network_is_patched_and_built_in_two_parts(clone):
    planned = make("--dry-run", "patch", "PRECISION=fp16", "MODEL=demo-ar", folder=clone).stdout
    assert planned.count("trt_code.onnx_surgeon") == 1  # which also patches the encoder
    for plugins, form in (("lite", ""), ("none", ".plain")):
        arguments = ("engine-fp16", "MODEL=demo-ar", f"PLUGINS={plugins}")
        planned = make("--dry-run", *arguments, folder=clone).stdout
        for half in ("", ".encoder"):
            assert f"--onnx build/demo-ar/model.fp16{form}{half}.onnx" in planned
            assert f"--output build/demo-ar/model.fp16{form}{half}.plan" in planned
        assert planned.count("trt_code.onnx_surgeon") == 1
        assert ("cmake/build.sh" in planned) == (plugins == "lite")


@pytest.mark.parametrize("target", ["engine-fp16", "engine-split", "bench"])
def test_an_engine_that_was_asked_for_is_checked_and_a_table_takes_it_as_it_is(target, clone):
    """A plan newer than its graph may be for other GPUs, and one for a table may have other options."""
    folder = clone / "build" / "demo"
    folder.mkdir(parents=True)
    names = [f"model{end}.onnx" for end in ("", ".encoder", ".decoder")]
    plain = [f"model.{precision}.plain" for precision in ("fp32", "tf32", "fp16")]
    names += [f"{name}{half}.onnx" for name in plain for half in ("", ".encoder", ".decoder")]
    names += [name.replace(".onnx", ".plan") for name in names]
    for name in (".venv/base.stamp", *(f"build/demo/{name}" for name in names)):
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).touch()
    arguments = (target, "PLUGINS=none", "COMPUTE_CAPABILITY=8.6,8.9")
    planned = make("--dry-run", *arguments, folder=clone).stdout
    plans = {"engine-fp16": 1, "engine-split": 2 * 3, "bench": 0}[target]
    checks = planned.count("trt_code.build_engine --if-changed")
    assert checks == planned.count('--compute-capability "$COMPUTE_CAPABILITY"') == plans


def test_engines_are_of_graphs_for_plugins_where_these_are_built(clone):
    assert "fp16.plain.plan" in make("--dry-run", "engine-fp16", folder=clone).stdout
    planned = make("--dry-run", "plugins", "engine-fp16", folder=clone).stdout
    assert planned.index("cmake/build.sh") < planned.index("--output build/demo/model.fp16.plan")
    library = clone / "build" / "plugins" / "liblite_plugins_trt11.so"
    library.parent.mkdir(parents=True)
    library.touch()
    planned = make("--dry-run", "engine-fp16", folder=clone).stdout
    assert "--output build/demo/model.fp16.plan" in planned
    assert "plain" not in planned
    # the table compares both forms
    planned = make("--dry-run", "bench", folder=clone).stdout
    for plan in ("model.fp16.plan", "model.fp16.plain.plan"):
        assert f"--output build/demo/{plan}" in planned
    assert "cmake/build.sh" not in planned


def test_an_interpreter_that_cannot_run_is_named(clone):
    """Also if the shell's message has the number of words that make expects as an answer."""
    program = clone / "python"
    program.write_text("#!/bin/sh\necho the interpreter is not here >&2; exit 1\n")
    program.chmod(0o755)
    reply = make("--dry-run", "engine-fp16", f"PYTHON={program}", folder=clone)
    assert reply.returncode == 2
    assert "the interpreter is not here" in reply.stderr


def test_graphs_without_plugins_are_written_on_request(clone):
    assert ".plain." not in make("--dry-run", "patch", "patch-split", folder=clone).stdout
    planned = make("--dry-run", "patch", "patch-split", "PLUGINS=none", folder=clone).stdout
    for precision in ("fp32", "tf32", "fp16"):
        output = f"--output build/demo/model.{precision}.plain.onnx"
        assert planned.count(output) == 2  # whole and in halves
    reply = make("--dry-run", "patch", "PLUGINS=some", folder=clone)
    assert reply.returncode == 2
    assert "PLUGINS=some is not known; choose lite or none" in reply.stderr


def test_tests_get_what_training_needs(clone):
    planned = make("--dry-run", "test", folder=clone).stdout
    for lock in ("train", "fairseq", "dev"):
        assert f" requirements/{lock}.lock" in planned
    assert planned.rindex("requirements/install.sh") < planned.index("-m pytest")


def test_another_interpreter_installs_nothing(clone):
    python = clone / "opt" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for target in ("test", "bench", "lint", "translate"):
        reply = make("--dry-run", target, f"PYTHON={python}", folder=clone)
        assert reply.returncode == 0, reply.stderr
        assert "pip" not in reply.stdout
        assert ".venv" not in reply.stdout
        assert f"{python} -m" in reply.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["onnx", "MODEL=nonsense"],
            ["no model 'nonsense'", "demo, demo-ar, wmt16 or wmt16-random"],
        ),
        (["onnx", "MODEL=no/where"], ["no/where is not a model", "make import CHECKPOINT="]),
        (["onnx", "MODEL=it's"], ["""no model "it's\""""]),
        (["onnx", "CHECKPOINT=x.pt"], ["make import CHECKPOINT=x.pt", "make onnx MODEL=mine"]),
        (["onnx", "MODEL=wmt16"], ["make download", "MODEL=demo"]),
        (["translate", "MODEL=wmt16-random"], ["wmt16-random has no text processing"]),
        (["eval", "MODEL=wmt16-random"], ["wmt16-random has no text processing"]),
        (["throughput", "MODEL=wmt16-random"], ["wmt16-random has no text processing"]),
        (["qat", "MODEL=demo-ar"], ["no recipe train_model/configs/demo-ar-qat.yaml", "make ptq"]),
        (["test-gpu"], ["gpu is missing", "get it: ", "works without it: make bench"]),
        (
            ["engine-fp16", "TENSORRT=full", "PYTHON=python3"],
            ["TensorRT for Python is not here", "`pip install tensorrt-cu13 cuda-python`"],
        ),
        (
            ["plugins", "TENSORRT_ROOT=/nowhere"],
            ["NvInferVersion.h in /nowhere/include", "make headers"],
        ),
    ],
)
def test_a_target_that_lacks_something_says_so(arguments, words, clone):
    # a machine without GPU tools: the PATH only has what the checks need
    tools = clone / "tools"
    tools.mkdir()
    for name in ("make", "sh", "cmake", "nvcc"):
        program = shutil.which(name) or shutil.which("true")
        (tools / name).symlink_to(os.path.realpath(program))
    # a link to the interpreter alone would lose its standard library
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python3").chmod(0o755)
    reply = subprocess.run(
        ["make", *arguments], cwd=clone, env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert reply.returncode == 2
    for word in words:
        assert word in reply.stderr
    errors = [line for line in reply.stderr.splitlines() if not line.startswith("make")]
    assert len(errors) <= 1, reply.stderr


def test_options_given_to_make_reach_what_measures(clone):
    """Options may contain any characters, because the shell gets a variable, not the text."""
    program = clone / "python"
    program.write_text(
        f'#!/bin/sh\n[ "$2" = train_model.model_folder ] && exec {sys.executable} "$@"\n'
        '[ "$2" = trt_code.doctor ] && exit 1\nfor word; do echo "[$word]"; done\n'
    )
    program.chmod(0o755)
    options = ["RUNNER=ort,torch", "PRECISION=fp32 fp16", "BEAM=4", "LENPEN=0.6", "DEVICE=cpu"]
    options += ["KERNELS=lazy", "CUDA_GRAPH=none"]
    for target, more in (("bench", ["SHAPE=1x8"]), ("eval", ["LIMIT=5"]), ("throughput", [])):
        reply = make(target, f"PYTHON={program}", *options, *more, folder=clone)
        assert reply.returncode == 0, reply.stderr
        for words in ("[--runner]\n[ort,torch]", "[--precision]\n[fp32 fp16]", "[--beam]\n[4]"):
            assert words in reply.stdout, target
        assert "[--lenpen]\n[0.6]" in reply.stdout
        assert "[--kernels]\n[lazy]\n[--cuda-graph]\n[none]" in reply.stdout
        for option in more:
            name, _, value = option.partition("=")
            assert f"[--{name.lower()}]\n[{value}]" in reply.stdout
    reply = make("eval", f"PYTHON={program}", "RUNNER=a'; echo $HOME", folder=clone)
    assert "[a'; echo $HOME]" in reply.stdout


def test_the_environment_gives_no_options(clone, monkeypatch):
    """Variables such as DEVICE are common; only those on make's command line count."""
    environment = {"PATH": os.environ["PATH"], "RUNNER": "trt", "DEVICE": "cuda"}
    reply = subprocess.run(
        ["make", "--dry-run", "bench", "PYTHON=python3"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert reply.returncode == 0, reply.stderr
    assert "--runner" not in reply.stdout
    assert "--device" not in reply.stdout


def test_text_of_any_kind_reaches_translate_as_it_is(clone):
    spy = clone / "python"
    spy.write_text(
        '#!/bin/sh\ncase "$2" in *model_folder) exec ' + sys.executable + ' "$@" ;; esac\n'
        'for argument; do printf "<%s>" "$argument"; done\n'
    )
    spy.chmod(0o755)
    (clone / "build" / "demo").mkdir(parents=True)
    (clone / "build" / "demo" / "model.decoder.onnx").touch()
    text = """it's "one" $HOME `date` -- & two"""
    reply = make("translate", f"PYTHON={spy}", f"TEXT={text}", folder=clone)
    assert reply.stdout.endswith(f"<--><{text}>")
    assert make("translate", f"PYTHON={spy}", "TEXT=", folder=clone).stdout.endswith("<--><>")
    assert make("translate", f"PYTHON={spy}", folder=clone).stdout.endswith("<--model><demo>")
    options = ("RUNNER=torch", "PRECISION=fp16", "CANDIDATES=5", "JUDGE=demo-ar")
    options += ("N_BEST=2", "UNKNOWN=drop", "FORMAT=json")
    assert make("translate", f"PYTHON={spy}", *options, "TEXT=one", folder=clone).stdout.endswith(
        "<--runner><torch><--precision><fp16><--candidates><5><--judge><demo-ar>"
        "<--n-best><2><--unknown><drop><--format><json><--><one>"
    )


@pytest.mark.parametrize(
    ("tools", "variables", "graph"),
    [
        ([], {}, "model.onnx"),
        ([], {"CXX": ""}, "model.onnx"),
        ([], {"CXX": "/opt/c++"}, "model.native.safetensors"),
        *(([name], {}, "model.native.safetensors") for name in library.COMPILERS),
    ],
)
def test_translate_takes_the_native_runner_where_a_compiler_is(tools, variables, graph, clone, spy):
    """make and ``library.find_compiler`` look for the same compilers."""
    (clone / "tools").mkdir()
    for name in ("sh", *tools):
        (clone / "tools" / name).symlink_to(shutil.which("sh"))
    reply = subprocess.run(
        [shutil.which("make"), "--dry-run", "translate", f"PYTHON={spy}"],
        cwd=clone,
        env={"PATH": str(clone / "tools"), **variables},
        capture_output=True,
        text=True,
    )
    built = re.findall(r"build/demo/(model\.[a-z.]+)", reply.stdout)
    assert built == [graph], reply.stdout


def test_locks_hold_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = {}
    for lock in ("base", *LOCKED_EXTRAS):
        text = (ROOT / "requirements" / f"{lock}.lock").read_text()
        locked |= dict(re.findall(r"^([\w-]+)==([^\s;]+)", text, re.M))
    for text in [*project["dependencies"], *(t for e in LOCKED_EXTRAS for t in extras[e])]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[requirement.name.lower()]), text


@pytest.mark.parametrize(
    "lock", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda path: path.stem
)
def test_every_locked_version_has_hashes(lock):
    entries = re.findall(r"^\w[\w-]*==.*(?:\n +.*)*", lock.read_text(), re.M)
    assert entries
    assert not [entry for entry in entries if "--hash=sha256:" not in entry]


def test_a_cuda_build_of_pytorch_gets_its_libraries_from_the_lock(clone):
    (clone / ".venv" / "bin").mkdir(parents=True)
    python = clone / ".venv" / "bin" / "python"
    said = clone / "said"
    python.write_text(f"#!/bin/sh\necho $@ >>{said}\n")
    python.chmod(0o755)
    arguments = ("SUITABLE=import sys; sys.exit()", ".venv/base.stamp")
    tools = clone / "tools"
    tools.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (tools / name).symlink_to(python)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}"}

    def installed() -> str:
        reply = subprocess.run(
            ["make", "--always-make", *arguments],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert reply.returncode == 0, reply.stderr
        return said.read_text()

    locks = re.findall(r"--require-hashes -r requirements/(\w+).lock", installed())
    assert locks == ["cpu", "base"]
    library = clone / ".venv/lib/python3.11/site-packages/torch/lib/libtorch_cuda.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert "--require-hashes -r requirements/cuda.lock" in installed()


def test_a_gpu_with_its_compiler_is_used(clone):
    tools = clone / "tools"
    tools.mkdir()
    for name in ("nvcc", "cmake", "nvidia-smi"):
        (tools / name).write_text("#!/bin/sh\necho a GPU, a driver\n")
        (tools / name).chmod(0o755)
    arguments = ["make", "--dry-run", "bench"]
    environment = {"PATH": f"{tools}:{os.environ['PATH']}"}
    reply = subprocess.run(arguments, cwd=clone, env=environment, capture_output=True, text=True)
    assert reply.returncode == 0, reply.stderr
    assert "-DLITE_BUILD_TORCH_OPS=ON" in reply.stdout
    assert reply.stdout.index("TORCH_OPS") < reply.stdout.index("trt_code.bench")
    assert reply.stdout.index("build_engine") < reply.stdout.index("trt_code.bench")
