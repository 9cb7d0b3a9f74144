"""Checks that TensorRT's importer and the project's plugins accept a patched ONNX file.

    python -m trt_code.graph_lint build/demo/model.fp16.onnx

TensorRT is not needed. If it is installed and can parse on this machine (TensorRT RTX can without a GPU),
its parser also reads each file in which the rules find nothing. A file with findings does not build, or
its engine computes something else than the graph.
"""

from pathlib import Path

import onnx

from onnx_export.onnx_file import load_onnx
from train_model.cli import Parser, first_line, path_argument, run
from trt_code.engine.tensorrt_api import title_of
from trt_code.lint.library import installed, parse_errors
from trt_code.lint.plugins import declared_fields, find_library, schema_fields
from trt_code.lint.rules import INT8_RULES, RULES, Finding, Graph, check_declared


def lint(model: onnx.ModelProto, fields: dict[str, dict[str, str]] | None = None) -> list[Finding]:
    """Return all findings of a model.

    Args:
        model: a patched model.
        fields: the fields that the plugins of a library declare, from ``declared_fields``; by default
        those of the operators' schemas.
    """
    graph = Graph(model)
    findings = [finding for rule in (*RULES, *INT8_RULES) for finding in rule(graph)]
    return [*findings, *check_declared(graph, schema_fields() if fields is None else fields)]


def report(model: onnx.ModelProto, path: Path, library: Path | None = None) -> int:
    """Print the findings of ``model``, which is in the file ``path``, and their number; return 1 for any."""
    library = library or find_library()
    findings = lint(model, declared_fields(library) if library else None)
    parsed = "not parsed, no TensorRT here"
    trt = installed()
    if trt is not None and not findings:
        findings = [
            Finding(node, f"{title_of(trt)} refuses it: {words}", "rewrite the node")
            for node, words in parse_errors(trt, path)
        ]
        parsed = f"parsed by {title_of(trt)}"
    for finding in findings:
        print(f"lint  {finding}")
    declared = f"attributes as declared by {library or 'the schemas'}"
    print(f"lint: {len(findings)} findings; {declared}; {parsed if not findings else 'not parsed'}")
    return 1 if findings else 0


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("onnx", type=path_argument, help="patched ONNX file")
    parser.add_argument(
        "--plugins",
        type=path_argument,
        help="plugin library; by default the newest of build/plugins",
    )
    arguments = parser.parse_args(argv)
    return report(load_onnx(arguments.onnx), arguments.onnx, arguments.plugins)


if __name__ == "__main__":
    run(main)
