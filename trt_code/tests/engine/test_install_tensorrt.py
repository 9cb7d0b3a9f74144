"""`make engine-*` installs TensorRT for RTX if needed, or gives the reason; pip is never run."""

import sys
from types import SimpleNamespace

import pytest

from train_model.cli import UserError
from trt_code.engine import install, tensorrt_api
from trt_code.engine.gpu import Gpu
from trt_code.tests.engine import mock_tensorrt


@pytest.fixture
def machine(monkeypatch):
    """A mock of a Linux machine without a GPU and TensorRT; ``commands`` records what would be run."""
    made = SimpleNamespace(commands=[], status=0, said="")
    monkeypatch.setenv("TENSORRT", "auto")
    monkeypatch.setattr(tensorrt_api, "installed_gpus", lambda: ())
    monkeypatch.setattr(tensorrt_api.importlib.util, "find_spec", lambda name: None)
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")

    def run(command, **options):
        made.commands.append([str(part) for part in command])
        return SimpleNamespace(returncode=made.status, stderr=made.said)

    monkeypatch.setattr(install.subprocess, "run", run)
    return made


def test_the_lock_is_installed_and_the_licence_named(machine, capsys):
    assert install.main([]) == 0
    (command,) = machine.commands
    assert command[0] == "sh"
    assert command[1].endswith("requirements/install.sh")
    assert command[2] == sys.executable
    assert command[3].endswith("requirements/tensorrt.lock")
    assert "NVIDIA's licence" in capsys.readouterr().err


def test_what_is_installed_is_left_alone(machine, monkeypatch):
    monkeypatch.setattr(tensorrt_api.importlib.util, "find_spec", lambda name: True)
    assert install.main([]) == 0
    assert not machine.commands


@pytest.mark.parametrize(
    ("flags", "gpus", "architecture", "words"),
    [
        (["--never"], (), "x86_64", "`pip install tensorrt-rtx`"),
        ([], (Gpu("NVIDIA H200", "9.0"),), "x86_64", "`pip install tensorrt-cu13 cuda-python`"),
        ([], (), "aarch64", "Linux on x86-64 alone and this is"),
    ],
)
def test_a_refused_installation_says_why_in_one_line(
    machine, monkeypatch, capsys, flags, gpus, architecture, words
):
    monkeypatch.setattr(tensorrt_api, "installed_gpus", lambda: gpus)
    monkeypatch.setattr(install.platform, "machine", lambda: architecture)
    with pytest.raises(UserError) as error:
        install.main(flags)
    assert words in str(error.value)
    assert install.main([*flags, "--if-any"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no TensorRT engines: ")
    assert not machine.commands


def test_an_installation_that_fails_gives_pips_reason(machine):
    machine.status = 2
    machine.said = "ERROR: No matching distribution found for tensorrt-rtx\nerror: it failed\n"
    with pytest.raises(UserError, match="No matching distribution found"):
        install.main([])


@pytest.mark.parametrize("flags", [[], ["--if-any"]])
def test_a_wrong_hash_is_never_passed_over(machine, flags):
    machine.status = 2
    machine.said = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n"
    with pytest.raises(UserError, match=r"not the one that requirements/tensorrt\.lock names"):
        install.main(flags)


@pytest.mark.parametrize(("version", "taken"), [("1.6.1.120", False), ("1.7.1.116", True)])
def test_plugins_are_refused_before_anything_is_compiled(monkeypatch, version, taken):
    """Compiling the plugins for ``make engine-fp16 PLUGINS=lite`` would take minutes."""
    mock_tensorrt.install(monkeypatch, version=version)
    monkeypatch.setattr(tensorrt_api.importlib.util, "find_spec", lambda name: True)
    assert install.main(["--plugins", "none"]) == 0
    if taken:
        assert install.main(["--plugins", "lite"]) == 0
    else:
        with pytest.raises(UserError, match=f"RTX {version} takes no plugins from ONNX files"):
            install.main(["--plugins", "lite"])
