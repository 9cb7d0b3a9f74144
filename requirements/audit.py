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
    """Run the pip-audit that the first argument names, once a lock: it refuses two versions of a package."""
    entries = {line for lock in LOCKS for line in lock.read_text().splitlines() if "==" in line}
    pins = [Requirement(entry.removesuffix(" \\")) for entry in entries]
    versions = {
        (pin.name, str(pin.specifier).removeprefix("=="))
        for pin in pins
        if not pin.marker or pin.marker.evaluate()
    }
    checked, reasons = {}, []
    for lock in LOCKS:
        command = [sys.argv[1], *OPTIONS, "--requirement", str(lock)]
        reply = subprocess.run(command, capture_output=True, text=True)
        try:
            packages = json.loads(reply.stdout)["dependencies"]
        except ValueError:  # pip-audit gave up: its last line gives the reason
            words = (reply.stderr.split("\n\n")[-1].split() or ["pip-audit said nothing"])[-40:]
            reasons.append(" ".join(words))
            break  # PyPI is out of reach for the other locks too
        reasons += [package["skip_reason"] for package in packages if "skip_reason" in package]
        checked |= {(p["name"], p["version"]): p["vulns"] for p in packages if "vulns" in p}
    advised = 0
    for (name, version), advisories in sorted(checked.items()):
        for advisory in advisories:
            advised += 1
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            print(f"{name} {version}: {advisory['id']}, mended in {fixed}")
    if missing := versions - checked.keys():
        return _incomplete(len(missing), len(versions), (reasons or [""])[0])
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
