"""``make triton``: writes a complete Triton model repository in one folder.

    build/triton/serve.sh       starts tritonserver on it
    build/triton/load.sh        loads a running server with the model's test sentences (perf_analyzer)
    build/triton/models/        lite_translate, and lite_network that it calls (configs.py)
    build/triton/plugins/       the TensorRT plugins, and the library that registers them

A one-pass network is the TensorRT plan if it is built, else the ONNX file on the CPU. Networks that run
several times for a translation are ONNX files, which Triton's Python backend runs on the CPU.
"""

import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from train_model.cli import (
    MAX_THREADS,
    Parser,
    UserError,
    add_count,
    first_line,
    output_folder,
    path_argument,
    run,
    whole_number,
)
from train_model.data.dictionary import Dictionary
from train_model.data.files import read_lines
from train_model.file_sets import replace_folder
from train_model.model_folder import MODEL_HELP, ModelFolder, find_model
from train_model.models.architectures import Family
from train_model.models.hypotheses import SearchOptions
from train_model.scratch import scratch_folder
from trt_code.arguments import MAX_SIZE, add_search, search_options
from trt_code.engine.profiles import Shape
from trt_code.runners import PRECISIONS, Request, Unavailable
from trt_code.runners.pairing import check_file
from trt_code.runners.search import BEAM, LEN_PENALTY
from trt_code.triton import configs
from trt_code.triton.configs import Serving
from trt_code.triton.modules import TEXT_MODULES, copy_modules
from trt_code.triton.networks import (
    UPSTREAM_PADDING,
    LoopNetwork,
    Network,
    OnnxNetwork,
    PlanNetwork,
)
from trt_code.triton.text_format import dump

SCRIPT = "serve.sh"
PARTS = {SCRIPT, "load.sh", "load.json", "models", "plugins"}
"""What a repository has; a folder with anything else is not replaced."""
BUCKETS = (8, 16, 32, 64, 128)
SERVE = """\
#!/bin/sh
# Serve this folder: ./serve.sh [options of tritonserver]
here=$(cd "$(dirname "$0")" && pwd)
exec tritonserver --model-repository="$here/models"{options} "$@"
"""
LOAD = """\
#!/bin/sh
# Sweep the load on a running server: ./load.sh [-u localhost:8001] [other options of perf_analyzer]
# NVIDIA's image tritonserver:*-py3-sdk has perf_analyzer.
here=$(cd "$(dirname "$0")" && pwd)
exec perf_analyzer -m {model} -i grpc --input-data "$here/load.json" --shape {text}:1 \\
  --concurrency-range 1:257:32 --percentile=95 "$@"
"""
LOAD_SENTENCES = 1000


def write_repository(files: ModelFolder, network: Network, serving: Serving, output: Path) -> None:
    """Write the folder ``output``; a repository that it holds is replaced once the new one is complete.

    Raises:
        UserError: the model has no text, or ``output`` exists and is not such a folder.
        OSError: the folder cannot be written.
    """
    files.require_text()
    with _replaced(output) as folder:
        models = folder / "models"
        network.copy_to(_add_model(models, configs.network(serving)), folder / "plugins")
        _add_translate(models, configs.translate(serving), files)
        _add_script(folder / SCRIPT, SERVE.format(options=network.options))
        if files.test_src is not None:
            load = LOAD.format(model=configs.TRANSLATE, text=configs.TEXT["name"])
            _add_script(folder / "load.sh", load)
            lines = filter(str.strip, read_lines(files.test_src))
            load_data = [
                {configs.TEXT["name"]: [line]} for line in itertools.islice(lines, LOAD_SENTENCES)
            ]
            (folder / "load.json").write_text(json.dumps({"data": load_data}))


def _add_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _add_model(models: Path, config: dict) -> Path:
    """Make a model's folder with its configuration; return the folder of its one version."""
    version = models / config["name"] / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(dump(config))
    return version


def _add_translate(models: Path, config: dict, files: ModelFolder) -> None:
    """Make the folder of the text model, with the tokenizer's modules and files."""
    version = _add_model(models, config)
    shutil.copy(Path(__file__).parent / "translate.py", version / "model.py")
    shutil.copy(files.src_dict, version / "dict.src.txt")
    shutil.copy(files.tgt_dict, version / "dict.tgt.txt")
    text = files.text.copy_to(version)
    languages = [name or "en" for name in files.languages]
    described = {"languages": languages, "text": text.to_mapping(version)}
    (version / "text.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    copy_modules(TEXT_MODULES, version)


@contextmanager
def _replaced(output: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``output`` on success and is removed on failure."""
    found = {path.name for path in output.iterdir()} if output.exists() else set()
    if found and not (SCRIPT in found and found <= PARTS):
        raise UserError(f"{output} holds something else than a Triton repository; name another")
    with scratch_folder(output) as scratch:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        replace_folder(folder, output)


def choose_network(backend: str, folder: Path, precision: str, family: Family) -> Network:
    """Open the network that is to be served from the built files in ``folder``.

    Raises:
        UserError: it is not built, or does not match its sources, or the backend does not run it.
    """
    if family != "one-pass":
        if backend == "tensorrt":
            raise UserError(
                f"Triton's TensorRT backend runs one-pass networks, and this one is {family}; leave out "
                "--backend to serve it with ONNX Runtime"
            )
        return LoopNetwork(folder / "model.onnx")
    plan = folder / f"model.{precision}.plan"
    if backend == "tensorrt" or (backend == "auto" and plan.is_file()):
        return PlanNetwork(plan)
    return OnnxNetwork(folder / "model.onnx")


def choose_buckets(network: Network, wanted: Sequence[int], max_batch: int) -> list[int]:
    """Return the bucket lengths up to and including the network's longest.

    Raises:
        UserError: the network does not take some batch of some bucket.
    """
    buckets = sorted({*(size for size in wanted if size < network.longest), network.longest})
    for length in buckets:
        for batch in range(1, max_batch + 1):
            if not network.accepts(shape := Shape(batch, length)):
                raise UserError(
                    f"no profile of the plan takes {shape}; build it with profiles that cover "
                    f"1x1 to {max_batch}x{network.longest}, or give a smaller --max-batch"
                )
    return buckets


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.triton.repository", description=first_line(__doc__))
    add = parser.add_argument
    add("--model", default="demo", help=MODEL_HELP)
    add("--build-dir", type=path_argument, default=Path("build"), help="where the built files are")
    add("--output", type=output_folder, default="build/triton", help="folder to write")
    add("--backend", choices=("auto", "tensorrt", "onnxruntime"), default="auto")
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp16",
        help="precision of the plan; default fp16",
    )
    add_count(parser, "--max-batch", None, "of the network; default: the plan's, or 16", MAX_SIZE)
    add_count(parser, "--max-delay-us", 1000, "longest wait for more sentences", 60_000_000)
    add_count(parser, "--instances", 1, "copies of the network", MAX_SIZE)
    add_count(parser, "--text-instances", 2, "processes that encode and decode", MAX_SIZE)
    add_count(parser, "--threads", 1, "CPU threads of an ONNX Runtime instance", MAX_THREADS)
    add(
        "--bucket",
        type=whole_number(1, MAX_SIZE),
        action="append",
        help=f"lengths (default {BUCKETS})",
    )
    add_search(parser)
    args = parser.parse_args(argv)

    files = find_model(args.model, args.build_dir)
    search = search_options(files.family, args)
    folder = args.build_dir / files.name
    network = choose_network(args.backend, folder, args.precision, files.family)
    is_plan = isinstance(network, PlanNetwork)
    request = Request(files, args.precision if is_plan else "fp32", "cpu", "triton", args.build_dir)
    command = f"make engine-{args.precision}" if is_plan else "make onnx"
    try:
        check_file(network.path, network.metadata, request, command)
    except Unavailable as error:
        raise UserError(str(error)) from error
    beam = search["beam"] or BEAM
    if files.family == "autoregressive":
        SearchOptions(beam=beam).check_vocabulary(len(Dictionary.load(files.tgt_dict)))
    max_batch = args.max_batch or network.max_batch
    serving = Serving(
        buckets=choose_buckets(network, args.bucket or BUCKETS, max_batch),
        max_batch=max_batch,
        max_delay_us=args.max_delay_us,
        instances=args.instances,
        text_instances=args.text_instances,
        profiles=network.profiles,
        threads=args.threads,
        family=files.family,
        beam=beam,
        len_penalty=LEN_PENALTY if search["len_penalty"] is None else search["len_penalty"],
        max_iter=search["max_iter"],
    )
    write_repository(files, network, serving, args.output)
    if network.padding_policy == UPSTREAM_PADDING:
        print(
            f"warning: {files.name} was trained with padding visible to real tokens, so a translation "
            "depends a little on its bucket; models of our recipes do not",
            file=sys.stderr,
        )
    print(f"{args.output}: {network.form}, lengths {serving.buckets}, batches up to {max_batch}")


if __name__ == "__main__":
    run(main)
