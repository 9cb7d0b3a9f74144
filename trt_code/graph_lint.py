"""Checks a patched ONNX file against what TensorRT's importer and the project's plugins take.

    python -m trt_code.graph_lint build/demo/model.fp16.onnx

No TensorRT is needed. A file without findings is not proven to build; one with findings will not, or
will not compute what is meant.
"""

from pathlib import Path

import onnx

from onnx_export.onnx_file import load_onnx
from train_model.cli import Parser, run
from trt_code.lint.plugins import declared_fields, find_library, schema_fields
from trt_code.lint.rules import RULES, Finding, Graph, check_declared


def lint(model: onnx.ModelProto, fields: dict[str, dict[str, str]] | None = None) -> list[Finding]:
    """All findings of a model.

    Args:
        model: a patched model.
        fields: what the plugins of a library declare, from ``declared_fields``; by default what the
            operators' schemas say.
    """
    graph = Graph(model)
    findings = [finding for rule in RULES for finding in rule(graph)]
    return [*findings, *check_declared(graph, schema_fields() if fields is None else fields)]


def report(model: onnx.ModelProto, library: Path | None = None) -> int:
    """Print the findings of ``model`` and their number; return 1 if there are any."""
    library = library or find_library()
    findings = lint(model, declared_fields(library) if library else None)
    for finding in findings:
        print(f"lint  {finding}")
    print(f"lint: {len(findings)} findings; attributes as declared by {library or 'the schemas'}")
    return 1 if findings else 0


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("onnx", type=Path, help="patched ONNX file")
    parser.add_argument(
        "--plugins", type=Path, help="plugin library; by default the newest of build/plugins"
    )
    arguments = parser.parse_args(argv)
    return report(load_onnx(arguments.onnx), arguments.plugins)


if __name__ == "__main__":
    run(main)
