"""doc/reliability.md: what shows a promise is a test that exists, or a run of a commit that exists."""

import re
import subprocess

import pytest

from trt_code.tests.repository.pages import ROOT

PAGE = (ROOT / "doc" / "reliability.md").read_text(encoding="utf-8")
TESTS = {
    path.name: path
    for package in ("train_model", "onnx_export", "trt_code")
    for path in (ROOT / package).rglob("test_*.py")
}
COMMIT = re.compile(r"\b[0-9a-f]{7}\b")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table's rows under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = [line[1:-1].split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in found[2:]]


def named_tests(text: str) -> list[str]:
    return re.findall(r"\btest_\w+\.py", text)


def test_every_test_that_is_named_exists():
    assert set(named_tests(PAGE)) <= TESTS.keys()


def test_every_kind_of_input_has_a_test():
    found = rows("Odd and hostile input")
    assert len(found) > 30
    for number, (_, _, shown) in enumerate(found):
        assert named_tests(shown) or (number and shown.startswith("the same")), shown


PROMISES = rows("Promises, and what shows them")


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[1][:40])
def test_every_promise_is_shown_by_a_test_or_by_a_run_of_a_commit(row):
    _, shown, _, commit = row
    if commit == "`make test`":
        for name in named_tests(shown):
            text = TESTS[name].read_text(encoding="utf-8")
            assert not re.search(r"^pytestmark = .*mark\.(slow|gpu)", text, re.MULTILINE), name
        assert named_tests(shown) or shown == "the tests named there"
    else:
        assert COMMIT.search(commit) or (ROOT / "doc" / commit).exists(), row


def test_every_commit_exists():
    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no history here")
    named = {row[3] for row in PROMISES} | set(re.findall(r"(?:commit|and|at) [0-9a-f]{7}\b", PAGE))
    for commit in sorted({commit for text in named for commit in COMMIT.findall(text)}):
        assert not git("merge-base", "--is-ancestor", commit, "HEAD").returncode, commit
