"""TensorRT as a mock, or as it is installed here."""

from pathlib import Path
from types import ModuleType

import pytest

from trt_code.tests.engine import mock_tensorrt


@pytest.fixture
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> ModuleType:
    """The mock in TensorRT's place, in an empty folder."""
    return mock_tensorrt.install(monkeypatch)
