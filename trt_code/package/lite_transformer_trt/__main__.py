"""``lite-transformer-trt COMMAND ...``: the commands under the make targets, for an installed package too."""

import importlib
import sys
from pathlib import Path

import lite_transformer_trt  # noqa: F401  (makes the stages importable)
from train_model import cli
from train_model.model_folder import find_model
from train_model.recipe import names
from trt_code.devices import default_device
from trt_code.text.choice import check_n_best
from trt_code.text.graphs import cache_folder, ensure_built

PROGRAM = "lite-transformer-trt"
COMMANDS = {
    "translate": ("trt_code.translate", "translate sentences, a file, or what is entered"),
    "translate-corpus": ("trt_code.translate_corpus", "translate many files on a Ray cluster"),
    "eval": ("trt_code.evaluate", "exact match, BLEU and chrF of every runner"),
    "bench": ("trt_code.bench", "latency and agreement of every runner"),
    "models": ("train_model.model_folder", "list the models"),
    "import": ("train_model.import_model", "make a model folder from a fairseq checkpoint"),
    "export": ("onnx_export.export", "a checkpoint to ONNX"),
    "train": ("train_model.train", "train a network from a recipe with fairseq"),
    "ptq": ("train_model.quantization.ptq", "calibrate INT8: a quantised checkpoint of a model"),
    "qat": ("train_model.train", "fine-tune in INT8 what ptq calibrated; needs a recipe MODEL-qat"),
    "verify": ("onnx_export.verify", "compare an ONNX file with PyTorch"),
    "patch": ("trt_code.onnx_surgeon", "an ONNX file to the graph for TensorRT"),
    "lint": ("trt_code.graph_lint", "check a graph before TensorRT reads it"),
    "engine": ("trt_code.build_engine", "a graph to a TensorRT engine"),
    "triton": ("trt_code.triton.repository", "a model repository for Triton Inference Server"),
    "report": ("trt_code.report", "plot and tabulate what bench measured"),
    "doctor": ("trt_code.doctor", "what is installed, and what installs the rest"),
}
READ_GRAPHS = ("translate", "eval", "bench", "triton")
WHOLE_GRAPH = ("triton",)  # reads a network in one file
ONE_RUNNER = ("translate",)


def main() -> None:
    """The console command; leaves the process with its exit status."""
    cli.run(_main)


def _main() -> int | None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND [OPTION ...]\n\n{__doc__ or ''}\n")
        print("\n".join(f"  {command:<18}{about}" for command, (_, about) in COMMANDS.items()))
        print(f"\n{PROGRAM} COMMAND --help lists the options.")
        return 0
    if name not in COMMANDS:
        raise cli.UserError(f"no command {name!r}; choose from {', '.join(COMMANDS)}")
    cli.program = f"{PROGRAM} {name}"
    sys.argv[0] = cli.program
    if name == "models":
        arguments = ["--list", *arguments]
    if name == "qat":
        arguments = _as_recipe(arguments)
    if name in READ_GRAPHS:
        arguments = _with_graphs(name, arguments)
    return importlib.import_module(COMMANDS[name][0]).main(arguments)


def _as_recipe(arguments: list[str]) -> list[str]:
    """Return the arguments of the training for those of ``qat``: ``--model NAME`` is the recipe NAME-qat."""
    parser = cli.Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--build-dir", type=cli.path_argument, default=Path("build"))
    known, others = parser.parse_known_args(arguments)
    recipe, start = f"{known.model}-qat", known.build_dir / f"{known.model}-ptq" / "checkpoint.pt"
    if recipe in names() and not start.is_file() and not {"-h", "--help"} & set(others):
        raise cli.UserError(
            f"there is no {start}, from which it starts; make it with `{PROGRAM} ptq --model {known.model}`"
        )
    return ["--recipe", recipe, "--build-dir", str(known.build_dir), *others]


def _with_graphs(name: str, arguments: list[str]) -> list[str]:
    """Make the files that the command ``name`` reads, if missing; without --build-dir in the cache."""
    parser = cli.Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--build-dir", type=cli.path_argument)
    parser.add_argument("-h", "--help", action="store_true")
    if name in ONE_RUNNER:
        parser.add_argument("--runner", default="auto")
        parser.add_argument("--precision", default="fp32")
        parser.add_argument("--device", default="auto")
        parser.add_argument("--n-best", default="1")
        parser.add_argument("--candidates", default="1")
    known, _ = parser.parse_known_args(arguments)
    if known.help:
        return arguments
    files = find_model(known.model, known.build_dir or "build")
    build_dir = known.build_dir or cache_folder(files)
    if name in ONE_RUNNER:
        several = max(map(cli.size, (known.n_best, known.candidates)))
        check_n_best(known.runner, files.family, several)
        device = default_device() if known.device == "auto" else known.device
        ensure_built(files, build_dir, known.runner, known.precision, device)
    else:
        ensure_built(files, build_dir, "ort" if name in WHOLE_GRAPH else "auto")
    return ["--build-dir", str(build_dir), *arguments]


if __name__ == "__main__":
    main()
