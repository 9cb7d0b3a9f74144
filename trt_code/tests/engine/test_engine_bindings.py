"""Every name of TensorRT's and CUDA's that the engine code uses, looked up in NVIDIA's own packages.

``tensorrt-cu13-bindings`` has the real Python classes but not the library they call. With a stand-in for
that library they can be imported, so every class, member and argument name of 10.16 and 11.4 can be looked
up. TensorRT for RTX is installed completely. Two sets are checked: the ``trt.X.Y`` in our source, and the
whole mock that the other tests use. So code that passes uses only names that all of these versions have,
except those that the mock lists for TensorRT for RTX.
"""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from trt_code.tests.engine.mock_cudart import MockCudart
from trt_code.tests.engine.mock_tensorrt import RTX_ONLY, MockTensorRT, mocked_classes
from trt_code.tests.repository.wheels import fetch_wheel

SOURCE = Path(__file__).parents[2]
VERSIONS = ("10.16.1.11", "11.4.0.106", "rtx")

ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)

# Prints {"": [names of the module], "Class": {"member": docstring}, ...} of the bindings.
DESCRIBE = """
import json, sys
import {module} as trt
classes = {{n: v for n, v in vars(trt).items() if isinstance(v, type)}}
members = {{n: {{m: getattr(v, m).__doc__ or "" for m in dir(v)}} for n, v in classes.items()}}
json.dump({{"": dict.fromkeys(dir(trt), ""), **members}}, sys.stdout)
"""


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request, tmp_path_factory) -> dict[str, dict[str, str]]:
    """The members of TensorRT's classes and their docstrings, which hold the signatures."""
    if request.param == "rtx":
        pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
        return describe("tensorrt_rtx", {})
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler for the stand-ins of the libraries that the bindings load")
    package = fetch_wheel(f"tensorrt-cu13-bindings=={request.param}")
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "entry_points.c"
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    major = request.param.split(".")[0]
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", source, "-o", folder / name]
        subprocess.run([*command, f"-Wl,-soname,{name}"], check=True)
    paths = {"PYTHONPATH": str(package), "LD_LIBRARY_PATH": str(folder)}
    return describe("tensorrt_bindings", paths)


def describe(module: str, environment: dict[str, str]) -> dict[str, dict[str, str]]:
    reply = subprocess.run(
        [sys.executable, "-c", DESCRIBE.format(module=module)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert reply.returncode == 0, reply.stderr
    return json.loads(reply.stdout)


def expected_of(bindings: dict[str, dict[str, str]], names: Iterable[str]) -> list[str]:
    """Return those of ``names`` (``Class.member``) that this family must have."""
    if "tensorrt_rtx" in bindings[""]:
        return list(names)
    return [n for n in names if not RTX_ONLY & {n, n.partition(".")[0]}]


def names_in_source() -> set[tuple[str, ...]]:
    """Return every ``trt.X`` and ``trt.X.Y`` in the package, without the tests."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        if "tests" in path.relative_to(SOURCE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            if names and isinstance(node, ast.Name) and node.id == "trt":
                found.add(tuple(names))
    return found


def test_the_names_in_our_source_exist(bindings):
    used = names_in_source()
    assert {("Builder",), ("BuilderFlag", "TF32"), ("ILogger", "WARNING")} <= used
    missing = [
        ".".join(names)
        for names in used
        if names[0] not in bindings[""]
        or (len(names) > 1 and names[0] in bindings and names[1] not in bindings[names[0]])
    ]
    assert not expected_of(bindings, missing)


def test_the_mock_offers_nothing_that_tensorrt_lacks(bindings):
    missing = []
    for name, mocked in mocked_classes(MockTensorRT(MockCudart())).items():
        real = bindings.get(name, {})
        for member in vars(mocked):
            if not member.startswith("_") and member not in real:
                missing.append(f"{name}.{member}")
    public = {n for n in vars(MockTensorRT) if not n.startswith("_")}
    missing += sorted(public - bindings[""].keys())
    assert not expected_of(bindings, missing)


def test_the_mocks_arguments_have_tensorrts_names(bindings):
    wrong = []
    for name, mocked in mocked_classes(MockTensorRT(MockCudart())).items():
        for member, function in vars(mocked).items():
            if member.startswith("_") or not inspect.isfunction(function):
                continue
            if not expected_of(bindings, [f"{name}.{member}"]):
                continue
            signature = bindings[name][member]
            for argument in list(inspect.signature(function).parameters)[1:]:
                if not re.search(rf"\b{argument}: ", signature):
                    wrong.append(f"{name}.{member}({argument}): {signature.splitlines()[0]}")
    assert not wrong


def test_the_mocked_cuda_functions_are_cuda_pythons():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for name in (n for n in vars(MockCudart) if n.startswith("cuda")):
        mocked, real = getattr(MockCudart, name), getattr(runtime, name)
        if isinstance(mocked, type):  # an enumeration
            assert all(getattr(real, member.name).value == member for member in mocked)
        elif inspect.isfunction(mocked):
            signature = real.__doc__.splitlines()[0]
            ours = list(inspect.signature(mocked).parameters)[1:]
            theirs = [
                part.split(":")[0].split()[-1]
                for part in signature[:-1].split("(")[1].split(", ")
                if part
            ]
            assert ours == theirs, signature
        else:
            assert mocked == real
