"""Imports go one way: ``trt_code`` -> ``onnx_export`` -> ``train_model``; large packages come late."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STAGES = ("train_model", "onnx_export", "trt_code")

# folder or file -> packages that no code in it may import, at the head of a module or inside a function
FORBIDDEN = {
    "train_model": ("onnx_export", "trt_code"),
    "onnx_export": ("trt_code",),
    "train_model/ops": ("train_model.models", "train_model.data", "fairseq"),
    "train_model/models": ("train_model.fairseq_plugin", "fairseq"),
    "onnx_export/symbols": ("train_model.models", "train_model.data"),
    "trt_code/surgeon": ("torch", "trt_code.runners", "trt_code.engine"),
    "trt_code/engine": ("torch", "trt_code.runners", "trt_code.measure"),
    "trt_code/runners": ("trt_code.measure", "trt_code.text"),
    "trt_code/text": ("trt_code.measure",),
}
# package -> the only folders and files that may import it
ONLY_IN = {
    "fairseq": (
        "train_model/fairseq_plugin",
        "train_model/fairseq_compat.py",
        "train_model/data",  # it writes fairseq's binary form
        "train_model/train.py",
        "train_model/distill.py",
    ),
    "tensorrt": ("trt_code/engine",),
    "tensorrt_rtx": ("trt_code/engine",),
}


def modules(*folders: str) -> list[Path]:
    """The Python files of ``folders`` that are not tests."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [path for path in found if "tests" not in path.relative_to(ROOT).parts]


def imported(path: Path) -> set[str]:
    """The dotted name of everything that the file imports, at its head or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_imports_nothing_from_the_layers_above_it(folder):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(folder)
        for name in sorted(imported(path))
        for package in FORBIDDEN[folder]
        if within(name, package)
    ]
    assert not wrong


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_heavy_package_is_imported_in_its_own_place_only(package):
    allowed = tuple(ROOT / place for place in ONLY_IN[package])
    wrong = [
        str(path.relative_to(ROOT))
        for path in modules(*STAGES)
        if any(within(name, package) for name in imported(path))
        and not any(path == place or place in path.parents for place in allowed)
    ]
    assert not wrong


def test_no_module_imports_from_the_tests():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(*STAGES)
        if "stress" not in path.parts  # these programs use the tests' makers for long runs
        for name in sorted(imported(path))
        if "tests" in name.split(".")
    ]
    assert not wrong


def test_no_test_imports_from_a_file_of_tests_or_fixtures():
    """Helpers that several test files need are in separate modules."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for stage in (*STAGES, "plugin_attrs_issue")
        for path in (ROOT / stage).rglob("*.py")
        for name in sorted(imported(path))
        if "tests" in name.split(".")
        and any(part.startswith("test_") or part == "conftest" for part in name.split("."))
        and (ROOT / name.rpartition(".")[0].replace(".", "/")).with_suffix(".py").is_file()
    ]
    assert not wrong


def test_the_list_of_runners_loads_no_framework():
    code = (
        "import sys, trt_code.runners; "
        "print(*{'torch', 'onnxruntime', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
