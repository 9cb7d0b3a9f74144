"""``make audit`` reports pip-audit's findings, and fails if a version could not be checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).parents[3] / "requirements"
PINS = {
    Requirement(line.removesuffix(" \\"))
    for lock in set(REQUIREMENTS.glob("*.lock")) - {REQUIREMENTS / "cpu.lock"}
    for line in lock.read_text().splitlines()
    if "==" in line
}
LOCKED = sorted(
    {  # two locks may have the same release, or two releases, of a package
        (pin.name, str(pin.specifier).removeprefix("=="))
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate()
    }
)
CLEAN = [{"name": name, "version": version, "vulns": []} for name, version in LOCKED]
ADVISORY = {"id": "PYSEC-2026-1", "fix_versions": ["9.9"]}


def audit(folder: Path, output: str) -> subprocess.CompletedProcess:
    """Run the audit with a mock of pip-audit that prints ``output`` if it gets exactly one lock.

    The real pip-audit fails if two locks have different versions of a package.
    """
    stand_in = folder / "pip-audit"
    (folder / "output").write_text(output)
    stand_in.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--requirement*--requirement*) echo two locks >&2; exit 1;; esac\n'
        f"cat {folder / 'output'}\n"
    )
    stand_in.chmod(0o755)
    command = [sys.executable, str(REQUIREMENTS / "audit.py"), str(stand_in)]
    return subprocess.run(command, capture_output=True, text=True)


def test_all_checked_and_clean(tmp_path):
    reply = audit(tmp_path, json.dumps({"dependencies": CLEAN}))
    assert (reply.returncode, reply.stdout) == (
        0,
        f"{len(LOCKED)} packages checked, 0 advisories\n",
    )


def test_an_advisory_is_named_with_the_version_that_fixes_it(tmp_path):
    """If two locks have two versions of a package, each version has its own advisories."""
    advised = [package | {"vulns": [ADVISORY]} for package in CLEAN]
    reply = audit(tmp_path, json.dumps({"dependencies": advised}))
    assert reply.returncode == 1
    for name, version in LOCKED:
        assert f"{name} {version}: PYSEC-2026-1, mended in 9.9\n" in reply.stdout
    assert reply.stdout.endswith(f"{len(LOCKED)} packages checked, {len(LOCKED)} advisories\n")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            {"dependencies": [{"name": "x", "skip_reason": "no such page"}, *CLEAN[1:]]},
            f"1 of {len(LOCKED)} packages could not be checked (no such page)",
        ),
        (None, "could not be checked (pip-audit said nothing)"),
    ],
)
def test_what_could_not_be_checked_is_an_error_of_one_line(output, words, tmp_path):
    reply = audit(tmp_path, json.dumps(output) if output else "")
    assert reply.returncode == 2
    assert words in reply.stderr
    assert reply.stderr.count("\n") == 1
