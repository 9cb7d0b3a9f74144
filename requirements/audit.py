"""Check every locked version for the security advisories on PyPI: ``make audit``.

Exit status 0: all versions were checked and none has an advisory. 1: some have advisories, printed one per
line. 2: some versions could not be checked, which does not count as a pass.
"""

import json
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

FOLDER = Path(__file__).parent
LOCKS = sorted(set(FOLDER.glob("*.lock")) - {FOLDER / "cpu.lock"})  # of a release in base.lock
OPTIONS = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]


def main() -> int:
    """Run the pip-audit that the first argument names."""
    entries = {line for lock in LOCKS for line in lock.read_text().splitlines() if "==" in line}
    pins = [Requirement(entry.removesuffix(" \\")) for entry in entries]
    versions = {pin.name for pin in pins if not pin.marker or pin.marker.evaluate()}
    command = [sys.argv[1], *OPTIONS]
    for lock in LOCKS:
        command += ["--requirement", str(lock)]
    reply = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(reply.stdout)["dependencies"]
    except ValueError:  # pip-audit gave up: its last line gives the reason
        reason = (reply.stderr.split("\n\n")[-1].split() or ["pip-audit said nothing"])[-40:]
        return _incomplete(len(versions), len(versions), " ".join(reason))
    checked = {package["name"]: package for package in packages if "vulns" in package}
    advised = 0
    for name, package in sorted(checked.items()):
        for advisory in package["vulns"]:
            advised += 1
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            print(f"{name} {package['version']}: {advisory['id']}, mended in {fixed}")
    if len(checked) < len(versions):
        reasons = [package["skip_reason"] for package in packages if "skip_reason" in package]
        return _incomplete(len(versions) - len(checked), len(versions), (reasons or [""])[0])
    print(f"{len(checked)} packages checked, {advised} advisories")
    return 1 if advised else 0


def _incomplete(missing: int, total: int, reason: str) -> int:
    print(
        f"error: {missing} of {total} packages could not be checked ({reason}); "
        "make audit needs https://pypi.org itself, a mirror has no advisories",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
