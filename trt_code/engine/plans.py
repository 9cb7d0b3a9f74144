"""Lists the engines of a model: who built each, for which GPUs, and which plugin libraries it needs.

    make plans MODEL=demo

Everything comes from the plans' JSON files, so this needs neither TensorRT nor a GPU.
"""

from collections.abc import Iterator
from pathlib import Path

from train_model.cli import Parser, UserError, first_line, run
from train_model.model_folder import model_name
from trt_code import arguments
from trt_code.engine.sidecar import describe_build, plugin_paths, read_sidecar, stale_reason


def described(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of every plan in ``folder``, and a line on it: its needs, its build, what is wrong."""
    for plan in sorted(folder.glob("*.plan")):
        try:
            sidecar = read_sidecar(plan)
        except UserError as error:
            yield plan.name, str(error)
            continue
        needs = ", ".join(path.name for path in plugin_paths(sidecar, plan)) or "no plugins"
        reason = stale_reason(sidecar, plan)
        stale = f"; {reason}; build it again: {sidecar.command}" if reason else ""
        yield plan.name, f"needs {needs}; {describe_build(sidecar, plan)}{stale}"


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.engine.plans", description=first_line(__doc__))
    arguments.add_model(parser)
    given = parser.parse_args(argv)
    folder = Path(given.build_dir) / model_name(given.model)
    plans = dict(described(folder))
    if not plans:
        raise UserError(f"no engines in {folder}; build one: make engine-fp16 MODEL={given.model}")
    width = max(map(len, plans))
    for name, line in plans.items():
        print(f"{name:{width}}  {line}")


if __name__ == "__main__":
    run(main)
