"""The rules that the kernels' sources keep."""

import re
from pathlib import Path

import torch

from train_model.data.dictionary import BOS, EOS, PAD, UNK
from train_model.models.layers import token_positions

KERNELS = Path(__file__).parents[2] / "kernels"
SOURCES = [*KERNELS.rglob("*.cu"), *KERNELS.rglob("*.cuh"), *KERNELS.rglob("*.h")]


def test_only_the_wrappers_in_ptx_have_inline_assembly():
    found = {path.parent.name for path in SOURCES if re.search(r"\basm\b", path.read_text())}
    assert found == {"ptx"}


def test_each_instruction_has_one_wrapper():
    """Word for word: the same text of an instruction is in one place."""
    templates = []
    for path in (KERNELS / "ptx").glob("*.cuh"):
        for body in re.findall(
            r"asm(?: volatile)?\((.*?)(?:::|:)\s*[\"\n)]", path.read_text(), re.S
        ):
            templates.append("".join(re.findall(r'"([^"]*)"', body)))
    assert len(templates) > 30
    assert len(templates) == len(set(templates))


def test_limits_of_shared_memory_are_raised_in_one_place():
    """Set to each launch's own size, a limit is lowered under the launches of other threads."""
    users = [path.name for path in SOURCES if "cudaFuncSetAttribute" in path.read_text()]
    assert users == ["common.cuh"]


def test_special_tokens_have_the_dictionarys_numbers():
    header = (KERNELS / "special_tokens.h").read_text()
    numbers = re.search(r"constexpr int64_t (kBos = .*);", header)[1]
    numbers = dict(part.split(" = ") for part in numbers.split(", "))
    expected = {"kBos": BOS, "kPad": PAD, "kEos": EOS, "kUnk": UNK}
    assert {name: int(number) for name, number in numbers.items()} == expected
    assert token_positions(torch.tensor([[UNK]])).item() == PAD + 1
    assert "kFirstPosition = int(kPad) + 1;" in header
