"""The READMEs' tables of architectures, runners and precisions, written from the registry of tests.

python -m trt_code.tests.networks.table

writes both tables again.
"""

import re
from pathlib import Path

from train_model.cli import Parser, run
from train_model.models.architectures import ARCHITECTURES
from trt_code.tests.networks.cells import ENGINES, cells

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "README.zh-CN.md")
# What each column shows: a runner on a device, or the engines that were built.
_COLUMNS = (
    ("torch", "cpu"),
    ("torch", "cuda"),
    ("ort", "cpu"),
    ("native", "cpu"),
    ("cuda-graph", "cuda"),
)
_WORDS = {
    "README.md": {
        "head": (
            "`--arch` in fairseq",
            "target tokens",
            "tested against",
            "PyTorch, CPU",
            "PyTorch, GPU",
            "ONNX Runtime, CPU",
            "native, CPU",
            "CUDA graphs, GPU",
            "TensorRT for RTX, built",
        ),
        "one-pass": "all at once",
        "iterative": "all at once, several times",
        "autoregressive": "one per step",
        "original": "the original code",
    },
    "README.zh-CN.md": {
        "head": (
            "fairseq 的 `--arch`",
            "目标词元",
            "对照",
            "PyTorch CPU",
            "PyTorch GPU",
            "ONNX Runtime CPU",
            "native CPU",
            "CUDA graph GPU",
            "TensorRT for RTX 已构建",
        ),
        "one-pass": "一次全部",
        "iterative": "一次全部、多次改进",
        "autoregressive": "每步一个",
        "original": "原始代码",
    },
}
_ORIGINAL = ("conv_crf_transformer", "transformer_multibranch_v2")
_TABLE = re.compile(r"(?<=\n)\| [^\n]*`--arch`.*?(?=\n\n)", re.S)


def table(page: str) -> str:
    """Return the table in the language of a page."""
    words = _WORDS[page]
    tested = [*cells("cpu"), *cells("cuda")]
    rows = [words["head"], ("---",) * len(words["head"])]
    for name, entry in ARCHITECTURES.items():
        against = words["original"] if name in _ORIGINAL else "fairseq"
        found = [
            " ".join(
                cell.precision.upper()
                for cell in tested
                if (cell.architecture, cell.runner, cell.device) == (name, *column)
            )
            or "-"
            for column in _COLUMNS
        ]
        engines = " ".join(precision.upper() for precision in ENGINES)
        rows.append((f"`{name}`", words[entry.family], against, *found, engines))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(page: str) -> str:
    """Return a page's text with a new table."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return _TABLE.sub(lambda _: table(page), text, count=1)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    for name in PAGES:
        (ROOT / name).write_text(with_table(name), encoding="utf-8")


if __name__ == "__main__":
    run(main)
