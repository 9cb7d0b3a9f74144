"""doc/porting_network.md ports lightconv: the pieces it lists are all that the network needs.

The tests remove them from a copy of the tree, where no program knows the network then, and put them back.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train_model.models.checkpoint import save_checkpoint
from train_model.tests.networks import of_architecture

ROOT = Path(__file__).parents[3]
NETWORK = "train_model/models/lightconv.py"
ENTRY = "train_model/models/architectures.py"
TESTS = "train_model/tests/networks.py"
# The network's lines in the two edited files.
PARTS = {
    ENTRY: re.compile(
        r'        Architecture\(\n            name="lightconv",\n.*?\n        \),\n', re.S
    ),
    TESTS: re.compile(r'    "lightconv": \{.*\},\n'),
}
LOAD = """
import sys, torch
from train_model.models.beam_search import beam_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
model = load_checkpoint(sys.argv[1]).model
source = torch.tensor([[9, 8, 7, 2]])
(found,) = beam_search(IncrementalDecoder.of(model), source, SearchOptions(beam=2, max_len_b=6))
print(*found[0].tokens.tolist())
"""


def git(tree: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A repository with ``train_model`` as it is without the network."""
    folder = tmp_path_factory.mktemp("tree")
    left_out = shutil.ignore_patterns("__pycache__", "fixtures", "*.yaml")
    shutil.copytree(ROOT / "train_model", folder / "train_model", ignore=left_out)
    (folder / NETWORK).unlink()
    for name, part in PARTS.items():
        text, count = part.subn("", (folder / name).read_text())
        assert count == 1, name
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "without lightconv")
    return folder


def load(tree: Path, checkpoint: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", LOAD, str(checkpoint)]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def test_the_listed_pieces_are_all_that_the_network_needs(tree, tmp_path):
    model = of_architecture("lightconv")
    checkpoint = tmp_path / "checkpoint.pt"
    save_checkpoint(checkpoint, model, model.config)
    without = load(tree, checkpoint)
    assert "is of architecture 'lightconv'; this project runs" in without.stderr
    for name in (NETWORK, ENTRY, TESTS):
        shutil.copy(ROOT / name, tree / name)
    git(tree, "add", "-A")
    rows = [line.split("\t") for line in git(tree, "diff", "--cached", "--numstat").splitlines()]
    assert {name: removed for _, removed, name in rows} == dict.fromkeys(
        (ENTRY, NETWORK, TESTS), "0"
    )
    page = (ROOT / "doc/porting_network.md").read_text(encoding="utf-8")
    for added, _, name in rows:
        assert re.search(rf"\(\.\./{name}\).*\| {added} \|\n", page), f"{name}: {added} lines"
    found = load(tree, checkpoint)
    assert found.returncode == 0, found.stderr
    assert [int(token) for token in found.stdout.split()] == expected(model)


@torch.inference_mode()
def expected(model: torch.nn.Module) -> list[int]:
    """The tokens that ``LOAD`` prints, from this tree's own network."""
    from train_model.models.beam_search import beam_search
    from train_model.models.hypotheses import SearchOptions
    from train_model.models.incremental import IncrementalDecoder

    options = SearchOptions(beam=2, max_len_b=6)
    (found,) = beam_search(IncrementalDecoder.of(model), torch.tensor([[9, 8, 7, 2]]), options)
    return found[0].tokens.tolist()


def test_the_code_on_the_page_is_the_networks():
    page = (ROOT / "doc/porting_network.md").read_text(encoding="utf-8")
    code = (ROOT / NETWORK).read_text() + (ROOT / ENTRY).read_text()
    lines = {line.strip() for line in code.splitlines()}
    shown = [
        line.strip()
        for block in re.findall(r"```python\n(.*?)```", page, re.S)
        for line in block.splitlines()
    ]
    assert len(shown) > 15
    assert [line for line in shown if line not in lines] == []
