"""The plugins, compiled once for this machine, and the host that stands in for TensorRT."""

import pytest

from trt_code.plugin_host.host import PluginHost
from trt_code.tests.plugins.plugin_build import PluginBuild, plugin_build


@pytest.fixture(scope="session")
def build() -> PluginBuild:
    return plugin_build()


@pytest.fixture(scope="session")
def host(build: PluginBuild) -> PluginHost:
    return build.host()
