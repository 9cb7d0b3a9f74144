"""The attribute walkthrough: the fault, the fix, and that the plugin host sees mistakes of each kind."""

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from plugin_attrs_issue import show
from trt_code.doctor import find_headers, header_folders
from trt_code.plugin_host.host import Case, Outcome

FOLDER = Path(show.__file__).parent
PROJECT = FOLDER.parent

pytestmark = pytest.mark.tensorrt_headers


@pytest.fixture(scope="module")
def build() -> Path:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc to build the plugin with")
    major = find_headers().partition(".")[0]
    folder = PROJECT / f"build/plugin_attrs_issue/trt{major}"
    assert "warning" not in make(FOLDER, folder, "all")
    return folder


@pytest.fixture
def case() -> Case:
    return show.case_of(show.make_model().graph.node[0], batches=(2, 1, 71))


def make(folder: Path, build: Path, *targets: str) -> str:
    """Run make and return its output, which includes the compilers'."""
    headers = next(f for f in header_folders() if (f / "NvInferVersion.h").is_file())
    command = [
        "make",
        "-C",
        folder,
        f"BUILD={build}",
        f"ROOT={PROJECT}",
        f"HEADERS={headers}",
        *targets,
    ]
    reply = subprocess.run(command, capture_output=True, text=True)
    assert reply.returncode == 0, reply.stdout + reply.stderr
    return reply.stdout + reply.stderr


def play(build: Path, version: str, case: Case, *, drop_undeclared: bool = False) -> Outcome:
    return show.play(build, version, case, drop_undeclared=drop_undeclared)


def test_faulty_creator_loses_every_attribute_silently(build: Path, case: Case) -> None:
    outcome = play(build, "faulty", case, drop_undeclared=True)
    assert outcome.result == "passed"
    assert outcome.timing_cache_id == "scalar=0 times=1 mode=add offsets=0,"


def test_host_names_the_attribute_that_is_not_declared(build: Path, case: Case) -> None:
    outcome = play(build, "faulty", case)
    assert (outcome.result, outcome.stage) == ("fault", "fields")
    assert "attribute 'mode' is not declared" in outcome.message


def test_readme_shows_what_is_printed(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show.main([str(build)])
    printed = capsys.readouterr().out.replace("(reached onShapeChange)", "(reached enqueue)")
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    if "first row of y" not in printed:  # there is no GPU
        readme = re.sub(r"  first row of y .*\n", "", readme)
    assert printed in readme


@pytest.mark.parametrize("drop_undeclared", [True, False])
def test_fixed_creator_gets_all_and_keeps_them(
    build: Path, case: Case, drop_undeclared: bool
) -> None:
    outcome = play(build, "fixed", case, drop_undeclared=drop_undeclared)
    assert outcome.result == "passed", outcome
    assert outcome.timing_cache_id == "scalar=2.5 times=3 mode=subtract offsets=10,20,30,"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"mode": "multiply"}, "attribute 'mode' must be"),
        ({"times": [1, 2]}, "attribute 'times' must be one INT"),
        ({"offsets": list(range(17))}, "attribute 'offsets' must be 1 to 16 INTS"),
    ],
)
def test_bad_attributes_are_refused(build: Path, case: Case, attributes: dict, reason: str) -> None:
    case = dataclasses.replace(case, attributes=case.attributes | attributes)
    outcome = play(build, "fixed", case)
    assert (outcome.result, outcome.stage) == ("refused", "create")
    assert reason in outcome.message


def test_missing_headers_are_reported(tmp_path: Path) -> None:
    command = ["make", "-C", FOLDER, f"BUILD={tmp_path}", f"TENSORRT_ROOT={tmp_path}", "headers"]
    reply = subprocess.run(command, capture_output=True, text=True)
    assert reply.returncode == 2
    assert f"error: no NvInferVersion.h in {tmp_path}/include; get the headers: git" in reply.stderr


@pytest.mark.gpu
def test_gpu_shows_fault_and_fix(build: Path, case: Case) -> None:
    faulty = play(build, "faulty", case, drop_undeclared=True)
    fixed = play(build, "fixed", case)
    assert faulty.enqueued
    assert fixed.enqueued
    for (x,), (wrong,), (y,) in zip(case.inputs, faulty.outputs, fixed.outputs, strict=True):
        assert torch.equal(wrong, x)
        assert torch.equal(y.double(), show.reference(x))


KERNEL, PLUGIN = "add_scalar_kernel.cu", "add_scalar_plugin.cpp"
# Each mistake: its changes to the source, and the host's message.
MISTAKES = {
    "field not declared": (
        PLUGIN,
        [('PluginField("times", nullptr, PluginFieldType::kINT32, 1),', "")],
        "'times' is not declared",
    ),
    "field declared with another type": (
        PLUGIN,
        [
            (
                '("times", nullptr, PluginFieldType::kINT32',
                '("times", nullptr, PluginFieldType::kINT64',
            )
        ],
        "declared INT64, but the parser passes INT32",
    ),
    "field not serialised": (
        PLUGIN,
        [('PluginField("times", &attributes_.times, PluginFieldType::kINT32, 1),', "")],
        "'times' is not serialised",
    ),
    "list cut to its first element": (
        PLUGIN,
        [("static_cast<int32_t>(attributes_.offsets.size())),", "1),")],
        "'offsets' is not serialised with the value",
    ),
    "NUL taken for text": (
        PLUGIN,
        [("std::find(text, text + field.length, '\\0')", "text + field.length")],
        "attribute 'mode' must be",
    ),
    "pointer into the caller's fields kept": (
        PLUGIN,
        [
            ('std::string mode = "add"', 'std::string_view mode = "add"'),
            (
                "a.mode.assign(text, std::find(text, text + field.length, '\\0'));",
                "a.mode = std::string_view(text, field.length - 1);",
            ),
            ("attributes_.mode.c_str()", "attributes_.mode.data()"),
            ('" mode=" + attributes_.mode', '" mode=" + std::string(attributes_.mode)'),
            ("#include <string>", "#include <string>\n#include <string_view>"),
        ],
        "'mode' is not serialised with the value",
    ),
    "clone shares pointers": (
        PLUGIN,
        [
            ("return new AddScalarPlugin(attributes_); }", "return new AddScalarPlugin(*this); }"),
            (
                '    fields_ = {\n        PluginField("scalar", &',
                '    if (fields_.empty()) fields_ = {\n        PluginField("scalar", &',
            ),
        ],
        "a clone has other fields once its original is destroyed",
    ),
    "attached to a context without a clone": (
        PLUGIN,
        [
            (
                "IPluginResourceContext*) noexcept override {\n    return clone();",
                "IPluginResourceContext*) noexcept override {\n    return this;",
            )
        ],
        "attachToContext gave no new plugin",
    ),
    "capability of the wrong base": (
        PLUGIN,
        [
            (
                "static_cast<nvinfer1::IPluginV3OneRuntime*>",
                "static_cast<nvinfer1::IPluginV3OneBuild*>",
            )
        ],
        "getCapabilityInterface gave PLUGIN_V3ONE_BUILD",
    ),
    "format unchecked": (
        PLUGIN,
        [(" &&\n           inOut[pos].desc.format == nvinfer1::TensorFormat::kLINEAR", "")],
        "which is not linear",
    ),
    "type of a position unchecked": (
        PLUGIN,
        [("inOut[pos].desc.type == DataType::kFLOAT", "inOut[0].desc.type == DataType::kFLOAT")],
        "disagree",
    ),
    "wrong output type": (
        PLUGIN,
        [("outputTypes[0] = DataType::kFLOAT", "outputTypes[0] = DataType::kHALF")],
        "output 0 got type HALF instead of FLOAT",
    ),
    "output shape not set": (
        PLUGIN,
        [("outputs[0] = inputs[0];", "outputs[0].d[0] = inputs[0].d[0];")],
        "an output shape was not set",
    ),
}
GPU_MISTAKES = {
    "default stream": (
        PLUGIN,
        [("static_cast<float*>(outputs[0]), stream)", "static_cast<float*>(outputs[0]), nullptr)")],
        "put nothing into the stream",
    ),
    "success without a launch": (
        PLUGIN,
        [("    AddScalarParams params{};\n", "    return 0;\n    AddScalarParams params{};\n")],
        "put nothing into the stream",
    ),
    "type unchecked at enqueue": (
        PLUGIN,
        [('    if (inputDesc[0].type != DataType::kFLOAT) return refuse("x must be FP32");\n', "")],
        "success for an INT8 input",
    ),
    "no bounds check": (KERNEL, [("if (i < p.count) ", "")], ""),
    "bounds check off by one": (
        KERNEL,
        [("i < p.count", "i <= p.count")],
        "written outside a buffer",
    ),
    "last block forgotten": (
        KERNEL,
        [("(params.count + kThreads - 1) / kThreads", "1 + params.count / kThreads / 2")],
        "other bytes",
    ),
    "synchronises": (
        KERNEL,
        [("  return cudaGetLastError();", "  return cudaStreamSynchronize(stream);")],
        "captured",
    ),
    "allocates": (
        KERNEL,
        [
            (
                "  return cudaGetLastError();",
                "  void* memory = nullptr;\n  return cudaMalloc(&memory, 64);",
            )
        ],
        "captured",
    ),
    "writes to its input": (
        KERNEL,
        [
            (
                "{\n  const int64_t i =",
                "{\n  if (threadIdx.x == 0) const_cast<float*>(x)[0] = 1;\n  const int64_t i =",
            )
        ],
        "changed input 0",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_host_sees_mistake(build: Path, case: Case, tmp_path: Path, name: str) -> None:
    sees(build, case, tmp_path, *MISTAKES[name])


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_MISTAKES)
def test_host_sees_mistake_on_gpu(build: Path, case: Case, tmp_path: Path, name: str) -> None:
    sees(build, case, tmp_path, *GPU_MISTAKES[name])


def sees(
    build: Path, case: Case, tmp_path: Path, file: str, changes: list[tuple[str, str]], says: str
) -> None:
    # Copies keep their modification times, so that make only rebuilds what the mistake affects.
    sources = shutil.copytree(FOLDER, tmp_path / "sources", ignore=shutil.ignore_patterns("tests"))
    shutil.copytree(build, tmp_path / "build")
    text = (sources / file).read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (sources / file).write_text(text)
    make(sources, tmp_path / "build", f"{tmp_path}/build/libadd_scalar_fixed.so")
    outcome = play(tmp_path / "build", "fixed", case)
    assert outcome.result != "passed", f"not seen: {outcome}"
    assert says in outcome.message, outcome
