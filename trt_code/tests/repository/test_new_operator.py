"""A new operator touches the files that doc/porting.md lists, and no other.

doc/porting/new_operator is copied over a copy of the tree. Then export, ONNX Runtime, the surgeon, the lint
and the plugin library must know the operator.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trt_code.plugin_host.host import Case, PluginHost
from trt_code.tests.plugins.plugin_build import PROJECT, plugin_build

OVERLAY = PROJECT / "doc/porting/new_operator"
FILES = sorted(str(path.relative_to(OVERLAY)) for path in OVERLAY.rglob("*") if path.is_file())
SOURCES = ("train_model", "onnx_export", "trt_code", "conftest.py", "pyproject.toml")
MOST_FILES = 8

STATIONS = """
import onnx, onnxruntime, onnx_ir as ir, torch
from onnx_export.graph import export_graph
from onnx_export.reference import with_reference_functions
from train_model.models.signatures import Signature
from train_model.ops.squared_relu import squared_relu
from trt_code.graph_lint import lint
from trt_code.onnx_surgeon import patch
from trt_code.surgeon.precision import apply_plan, make_plan


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 4)

    def forward(self, x):
        return squared_relu(self.linear(x), 0.25)


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


torch.manual_seed(0)
network, x = Network().eval(), torch.randn(3, 5, 6)
axes = {0: "batch", 1: "length"}
exported = export_graph(network, {"x": x}, Signature({"x": axes}, {"y": axes}))
with torch.no_grad():
    expected = network(x)
assert expected.max() == 0.25, "the limit is reached"
torch.testing.assert_close(run(ir.to_proto(exported), x), expected)
for precision, tolerance in (("fp32", 1e-6), ("fp16", 4e-3)):
    model = ir.from_proto(ir.to_proto(exported))
    patch(model)
    if precision == "fp16":
        apply_plan(model, make_plan(model, ir.DataType.FLOAT16, {}))
    patched = ir.to_proto(model)
    (node,) = [node for node in patched.graph.node if node.op_type == "LiteSquaredRelu"]
    names = {item.name for item in node.attribute}
    assert names == {"limit", "plugin_version", "plugin_namespace"}, names
    assert not patched.functions
    assert lint(patched) == []
    y = run(with_reference_functions(patched), x)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
print("every station")
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the example's files."""
    folder = tmp_path_factory.mktemp("tree")
    left_out = shutil.ignore_patterns("__pycache__", "fixtures")
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(PROJECT / name, folder / name)
    shutil.copytree(OVERLAY, folder, dirs_exist_ok=True, ignore=left_out)
    return folder


def python(tree: Path, *arguments: str) -> str:
    """Run Python in the copy; return its output."""
    command = [sys.executable, *arguments]
    reply = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert reply.returncode == 0, (reply.stdout + reply.stderr)[-4000:]
    return reply.stdout


def test_the_page_lists_exactly_these_files() -> None:
    page = (PROJECT / "doc/porting.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(porting/new_operator/([^)]+)\)", page)) == FILES
    assert len(FILES) <= MOST_FILES
    assert not [name for name in FILES if (PROJECT / name).exists()], "an example, not an edit"


def test_every_step_knows_the_operator(tree: Path) -> None:
    assert "every station" in python(tree, "-c", STATIONS)


def test_the_tests_of_the_tree_cover_it(tree: Path) -> None:
    tests = ["train_model/tests/test_squared_relu.py", "onnx_export/tests/test_schema.py"]
    said = python(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", *tests)
    assert "LiteSquaredRelu-x]" in said


@pytest.mark.tensorrt_headers
def test_the_plugin_library_has_it(tree: Path, tmp_path: Path) -> None:
    """Compile the two new files, link them with the objects of the usual build, and host a node."""
    build = plugin_build()
    usual = build.host()
    cache = (build.folder / "CMakeCache.txt").read_text()
    options = re.findall(r"^(TENSORRT_ROOT|LITE_CUDA_ARCHITECTURES):\w+=(.*)$", cache, re.M)
    folder = tmp_path / "cmake"
    configure = ["cmake", "-S", str(tree / "trt_code"), "-B", str(folder), "-G", "Unix Makefiles"]
    run(*configure, *(f"-D{name}={value}" for name, value in options))
    run("make", "-C", str(folder), "SquaredReluPlugin/squared_relu_plugin.o")
    run("make", "-C", str(folder / "kernels"), "squared_relu.o")
    new = sorted(map(str, folder.rglob("squared_relu*.o")))
    assert len(new) == 2
    library = tmp_path / usual.library.name
    link = shlex.split((build.folder / "CMakeFiles/lite_plugins.dir/link.txt").read_text())
    link[link.index("-o") + 1] = str(library)
    position = link.index("kernels/liblite_kernels.a")
    run(*link[:position], *new, *link[position:], cwd=build.folder)

    host = PluginHost(usual.program, library)
    assert host.fields() == usual.fields() | {"LiteSquaredRelu": {"limit": "FLOAT32"}}
    tensors = [[torch.empty(2, length, 8, device="meta")] for length in (3, 1, 9)]
    types = [(dtype, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    case = Case("new", "LiteSquaredRelu", {"limit": 2.0}, tensors, tensors, types)
    bad = Case("bad", "LiteSquaredRelu", {"limit": -1.0}, tensors, tensors)
    lived, refused = host.play([case, bad], device=False)
    assert lived.result == "passed", lived
    assert (refused.result, refused.stage) == ("refused", "create")
    assert "limit must be positive" in refused.message


def run(*command: str, cwd: Path | None = None) -> None:
    reply = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert reply.returncode == 0, (shlex.join(command) + reply.stdout + reply.stderr)[-4000:]
