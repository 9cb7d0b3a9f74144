"""A small network of the full architecture, exported once."""

import pytest

from onnx_export.tests.tiny import Exported, export_tiny


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    return export_tiny(tmp_path_factory.mktemp("tiny"))
