"""The workflow for GitHub, as far as it can be checked without GitHub."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / ".github/workflows/ci.yml").read_text()
WORKFLOW = yaml.safe_load(TEXT)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_target_exists():
    commands = re.findall(r"\bmake ((?:[a-z0-9-]+ ?)+)$", TEXT, re.MULTILINE)
    used = {target for command in commands for target in command.split()}
    assert {"lint", "test", "bench", "engine-fp16"} <= used
    assert used <= targets()


def test_pythons_are_the_supported_ones():
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11,<3.14"' in pyproject
    assert WORKFLOW["jobs"]["cpu"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_the_gpu_job_starts_by_hand_only():
    assert WORKFLOW["jobs"]["gpu"]["if"] == "github.event_name == 'workflow_dispatch'"
    image = (ROOT / "docker/Dockerfile.tensorrt").read_text()
    default = WORKFLOW[True]["workflow_dispatch"]["inputs"]["tensorrt_tag"]["default"]  # True: "on"
    assert f"ARG TENSORRT_TAG={default}\n" in image
