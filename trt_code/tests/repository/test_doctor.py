"""The doctor reports every dependency, and needs none itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from train_model.cli import UserError
from trt_code import doctor

ROOT = Path(__file__).parents[3]


def test_one_line_per_dependency():
    lines = doctor.report()
    assert [line.split()[1] for line in lines] == [d.name for d in doctor.DEPENDENCIES]
    assert all(
        line.startswith("✓ ") or (line.startswith("✗ ") and "get it: " in line) for line in lines
    )
    assert any(line.startswith("✓ torch ") for line in lines)


def test_require_says_what_how_and_what_works_without(monkeypatch, tmp_path):
    doctor.require(["python", "torch"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        doctor.require(["torch", "gpu"])
    for words in ("gpu is missing", "make test-gpu", "get it: ", "works without it: make bench"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("#define NV_TENSORRT_MAJOR 10 //!< comment\n#define NV_TENSORRT_MINOR 1\n", "10.1"),
        ("#define TRT_MAJOR_ENTERPRISE 11\n#define TRT_MINOR_ENTERPRISE 4\n", "11.4"),
    ],
)
def test_headers_are_found_in_both_styles(text, version, monkeypatch, tmp_path):
    (tmp_path / "include").mkdir()
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    (tmp_path / "include" / doctor.HEADER).write_text(text)
    assert doctor.find_headers() == f"{version} in {tmp_path / 'include'}"


def test_missing_headers_name_the_folders_searched(monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    monkeypatch.setattr(doctor, "HEADER_FOLDERS", ())
    with pytest.raises(UserError, match=f"no NvInferVersion.h in {tmp_path}/include"):
        doctor.require(["tensorrt-headers"])


def test_it_needs_the_standard_library_only():
    command = [sys.executable, "-I", "-S", "-c"]
    command += [
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from trt_code.doctor import main; main([])"
    ]
    reply = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert "✗ torch" in reply.stdout
