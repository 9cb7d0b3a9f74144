"""The plugins, compiled for this machine once, and the host that plays TensorRT's part."""

import pytest

from trt_code.plugin_host.host import PluginHost
from trt_code.tests.plugins.plugin_build import PluginBuild, plugin_build


@pytest.fixture(scope="session")
def build() -> PluginBuild:
    return plugin_build()


@pytest.fixture(scope="session")
def host(build: PluginBuild) -> PluginHost:
    return build.host()
