"""Measures searches at a forced length: the project's runners against CTranslate2.

    python -m trt_code.measure.forced_length --model demo-ar --target 20 --beam 1,4
    python -m trt_code.measure.forced_length --device cuda --batch 1,128,512 --one-pass wmt16-random

The speed of a search does not depend on its weights if all translations have the same length. So a rival can
have random weights: CTranslate2 runs a Transformer with as many layers, channels and words as the model (it
has no convolutions), and the native runner runs the same Transformer for comparison. Sources have random
words and 8 to 24 tokens. With ``--one-pass demo`` a one-pass network translates at the same length too, and
CTranslate2 runs a Transformer of its size. All systems use the same number of threads in total and take
turns. CTranslate2's workers and the native runner have several batches at a time. The time is that of all
batches from token ids to token ids, without text. Before the timing each system must give the forced length.
On a GPU, ``cuda-graph`` in FP16 takes the place of the CPU's runners. Writes
``build/forced_length/results.json`` and ``.md``.
"""

import argparse
import concurrent.futures
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnx_export.step_session import StepSession
from train_model.cli import Parser, UserError, first_line, run
from train_model.data.dictionary import EOS, SPECIALS
from train_model.model_folder import ModelFolder, find_model
from train_model.models import numpy_search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import Found, SearchOptions
from train_model.models.one_pass import OnePassTranslator
from train_model.models.transformer import Transformer, TransformerConfig
from train_model.ops import load_cuda_library
from train_model.quantization import ptq
from train_model.tables import Column, Table, as_json, facts, page, write_files
from trt_code import arguments
from trt_code.cuda_graph.graphs import GraphedNetwork
from trt_code.cuda_graph.network import FusedNetwork
from trt_code.devices import processors
from trt_code.measure.machine import describe
from trt_code.native import library, search, translation
from trt_code.native.export import to_program
from trt_code.native.program import SUFFIX, LoadedProgram
from trt_code.runners import Request, Unavailable
from trt_code.runners.base import widen
from trt_code.runners.pairing import check_file
from trt_code.runners.search.ctranslate2_runner import COMPUTE, NOT_INSTALLED, convert
from trt_code.runners.search.cuda_graph_steps import graphed_search
from trt_code.runners.search.tensors import on_device
from trt_code.text import batching

LENGTHS = 8, 24
ONE_PASS = "one pass"
TABLE = Table(
    [
        Column("", "name", width=46, left=True),
        Column("beam", "beam"),
        Column("batch", "batch"),
        Column("sentences/s", "sentences_per_s", ".0f", width=13),
        Column("slowest", "slowest", ".0f", width=10),
        Column("fastest", "fastest", ".0f", width=10),
    ]
)
Translate = Callable[[list[list[int]], int, int], None]
"""Translates sources with a beam, in batches of a size; checks the lengths."""
CALLS = 2  # batches that native translates at a time, as make translate gives them to it


class Options:
    """Search options for a forced number of target tokens before eos."""

    def __init__(self, target: int) -> None:
        self.target = target

    def __call__(self, beam: int) -> SearchOptions:
        return SearchOptions(beam=beam, min_len=self.target, max_len_b=self.target)

    def check(self, found: Found) -> None:
        """Raise ``UserError`` unless the best translations have the forced length."""
        if not (found.lengths[:, 0] == self.target + 1).all():
            raise UserError("a translation does not have the forced length")


def in_batches(search: Callable[[np.ndarray, SearchOptions], Found], forced: Options) -> Translate:
    """Return a function that translates batch by batch."""

    def translate(rows: list[list[int]], beam: int, size: int) -> None:
        for at in range(0, len(rows), size):
            forced.check(search(batching.pad(rows[at : at + size]), forced(beam)))

    return translate


def several_at_a_time(translate: Translate) -> Translate:
    """Return the same, with ``CALLS`` batches at a time."""

    def together(rows: list[list[int]], beam: int, size: int) -> None:
        with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
            calls = [
                pool.submit(translate, rows[at : at + size], beam, size)
                for at in range(0, len(rows), size)
            ]
            for call in calls:
                call.result()

    return together


def native(model: Any, folder: Path, threads: int, forced: Options) -> Translate:
    """Return the native runner's search over a PyTorch network, or its pass over a one-pass network."""
    path = folder / f"{type(model).__name__}{SUFFIX}"
    to_program(model).save(path)
    program = LoadedProgram(library.load(), path)
    if isinstance(model, OnePassTranslator):
        translate = functools.partial(in_one_pass, program, threads, forced.target + 2)
    else:
        translate = in_batches(functools.partial(search.search, program, threads=threads), forced)
    return several_at_a_time(translate)


def in_one_pass(
    program: LoadedProgram, threads: int, length: int, rows: list[list[int]], beam: int, size: int
) -> None:
    """Translate into ``length`` tokens with bos and eos; there is no beam.

    Raises:
        UserError: a translation has another length.
    """
    for at in range(0, len(rows), size):
        sources = batching.pad(rows[at : at + size])
        # the canvas depends on the width
        sources = widen(sources, max(length, sources.shape[1]))
        lengths = np.full(len(sources), length)
        tokens = translation.translate(program, sources, threads, lengths)[0]
        if tokens.shape[1] != length:
            raise UserError("a translation does not have the forced length")


def on_gpu(model: Any, forced: Options) -> Translate:
    """Return the runner ``cuda-graph`` in FP16, or ``cuda-graph-full`` for a one-pass network."""
    device, dtype = torch.device("cuda"), torch.float16
    if isinstance(model, OnePassTranslator):
        network = GraphedNetwork(FusedNetwork(model, dtype, device), device, canvas="full")
        return functools.partial(in_one_pass_on_gpu, network, forced.target + 2)
    search_on_gpu = graphed_search(model.to(device, dtype).eval(), "fp16")
    return in_batches(on_device(search_on_gpu, device), forced)


def in_one_pass_on_gpu(
    network: GraphedNetwork, length: int, rows: list[list[int]], beam: int, size: int
) -> None:
    """Translate on the full canvas, which has twice the source's positions: ``length``. There is no beam."""
    source = length // 2
    for at in range(0, len(rows), size):
        sources = batching.pad([row[:source] for row in rows[at : at + size]])
        tokens, _ = network(widen(sources, source))
        if tokens.shape[1] != 2 * source:
            raise UserError("a canvas does not have the forced length")


def in_int8(model: Any) -> Any:
    """Return the network in INT8, with ranges of random sources, since only its speed counts.

    Raises:
        UserError: nvidia-modelopt is not installed.
    """
    rng = np.random.default_rng(2)
    words = model.config.src_vocab
    tokens = [torch.from_numpy(rng.integers(len(SPECIALS), words, (8, 16))) for _ in range(2)]
    return ptq.quantize(model, [], tokens).eval()


def ctranslate2(
    model: Transformer,
    folder: Path,
    precision: str,
    workers: int,
    threads: int,
    forced: Options,
    device: str = "cpu",
) -> Translate:
    """Return CTranslate2 with ``workers`` of ``threads`` threads each; it makes the batches itself.

    Raises:
        ImportError: it is not installed.
    """
    import ctranslate2 as rival

    saved = folder / "ctranslate2"
    if not saved.is_dir():
        saved.mkdir(parents=True)
        convert(model, str(saved))
    translator = rival.Translator(
        str(saved),
        device=device,
        compute_type=COMPUTE[precision],
        inter_threads=workers,
        intra_threads=threads,
    )

    def translate(rows: list[list[int]], beam: int, size: int) -> None:
        results = translator.translate_batch(
            [list(map(str, row)) for row in rows],
            beam_size=beam,
            max_batch_size=size,
            min_decoding_length=forced.target,
            max_decoding_length=forced.target,
        )
        if any(len(result.hypotheses[0]) != forced.target for result in results):
            raise UserError("CTranslate2 did not keep to the forced length")

    return translate


def same_size(config: Any) -> Transformer:
    """Return a Transformer with random weights, as deep and wide as the network of ``config``."""
    names = ("encoder_embed_dim", "encoder_ffn_embed_dim", "decoder_ffn_embed_dim")
    names += ("encoder_layers", "decoder_layers", "decoder_attention_heads")
    names += ("max_source_positions", "max_target_positions")
    sizes = {name: getattr(config, name) for name in names}
    sizes["encoder_attention_heads"] = config.decoder_attention_heads
    torch.manual_seed(0)
    return Transformer(TransformerConfig(config.src_vocab, config.tgt_vocab, **sizes)).eval()


def systems(
    args: argparse.Namespace, files: ModelFolder, model: Any, one_pass: Any, folder: Path
) -> dict[str, Translate]:
    """Return the systems by name. INT8 and CTranslate2 are left out, with a message, if a package is missing.

    ONNX Runtime is left out if the model's step has not been exported.

    Args:
        args: the command line's.
        files, model: the autoregressive model and its network.
        one_pass: a one-pass network, or None.
        folder: for files of the systems.

    Raises:
        UserError: the model's ONNX file does not belong to it.
    """
    forced = Options(args.target)
    for beam in args.beam:
        SearchOptions(beam=beam).check_vocabulary(model.config.tgt_vocab)
    plain = {"Transformer": same_size(model.config)}
    networks = {files.name: model} | plain
    if one_pass is not None:
        networks[ONE_PASS] = one_pass
        plain["Transformer as large as the one-pass network"] = same_size(one_pass.config)
    if args.device == "cuda":
        load_cuda_library()
        return systems_on_gpu(networks, plain, folder, forced)
    threads, found = args.threads or processors(), {}
    for name, made in networks.items():
        found[f"native FP32, {name}"] = native(made, folder, threads, forced)
        try:
            found[f"native INT8, {name}"] = native(in_int8(made), folder, threads, forced)
        except UserError as error:  # no nvidia-modelopt
            print(f"native INT8, {name}: not run: {error}")
    step = Path(args.build_dir) / files.name / "model.onnx"
    if step.is_file():
        halves = StepSession(step, threads)
        request = Request(files, "fp32", "cpu", "ort", args.build_dir)
        try:
            check_file(step, halves.metadata, request, "make onnx")
        except Unavailable as error:
            raise UserError(str(error)) from error
        found[f"ort FP32, {files.name}"] = in_batches(
            functools.partial(numpy_search.search, halves), forced
        )
    try:
        for network, made in plain.items():
            for precision in ("fp32", "int8"):
                for workers, each in sorted({(threads, 1), (1, threads)}):
                    title = (
                        f"CTranslate2 {precision.upper()}, {network}, {workers} x {each} threads"
                    )
                    own = folder / network  # one conversion for all of its rows
                    found[title] = ctranslate2(made, own, precision, workers, each, forced)
    except ImportError:
        print(NOT_INSTALLED)
    return found


def systems_on_gpu(
    networks: dict[str, Any], plain: dict[str, Transformer], folder: Path, forced: Options
) -> dict[str, Translate]:
    """Return the systems on a GPU: our runner with every network, CTranslate2 with those of ``plain``."""
    found = {}
    try:
        for network, made in plain.items():
            found[f"CTranslate2 FP16, {network}"] = ctranslate2(
                made, folder / network, "fp16", 1, 1, forced, "cuda"
            )
    except ImportError:
        print(NOT_INSTALLED)
    for name, made in (networks | plain).items():
        found[f"{'cuda-graph-full' if name == ONE_PASS else 'cuda-graph'} FP16, {name}"] = on_gpu(
            made, forced
        )
    return found


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Time every system with every beam and batch size; they take turns.

    Raises:
        UserError: the model is not autoregressive, or the other one is not a one-pass network.
    """
    files = find_model(args.model)
    if not files.autoregressive:
        raise UserError(f"{files.name} is not autoregressive, so it has no search")
    model = load_checkpoint(files.checkpoint).model.eval()
    one_pass = None
    if args.one_pass:
        one_pass = load_checkpoint(find_model(args.one_pass).checkpoint).model.eval()
        if not isinstance(one_pass, OnePassTranslator):
            raise UserError(f"{args.one_pass} is not a one-pass network")
    measured = systems(args, files, model, one_pass, folder)
    rng = np.random.default_rng(1)
    words = model.config.src_vocab
    lengths = sorted(rng.integers(*LENGTHS, args.sentences))
    rows = [[*rng.integers(len(SPECIALS), words, length - 1).tolist(), EOS] for length in lengths]
    times: dict[tuple[str, int, int], list[float]] = {}
    for beam in args.beam:
        for size in args.batch:
            turns = {
                name: translate
                for name, translate in measured.items()
                if beam == 1 or not name.endswith(ONE_PASS)  # it has no beam
            }
            # all shapes, since a runner on a GPU captures each when it first meets it
            for translate in turns.values():
                translate(rows, beam, size)
            for _ in range(args.rounds):
                for name, translate in turns.items():
                    start = time.perf_counter()
                    translate(rows, beam, size)
                    times.setdefault((name, beam, size), []).append(time.perf_counter() - start)
    return [
        {
            "name": name,
            "beam": beam,
            "batch": size,
            "sentences_per_s": len(rows) / float(np.median(spent)),
            "slowest": len(rows) / max(spent),
            "fastest": len(rows) / min(spent),
        }
        for (name, beam, size), spent in times.items()
    ]


def main(argv: list[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    arguments.add_model(parser)
    parser.set_defaults(model="demo-ar")
    parser.add_argument("--one-pass", help="name of a one-pass model with as many words")
    arguments.add_device(parser)
    arguments.add_count(
        parser, "--threads", None, "CPU threads of each system; default: all", arguments.MAX_THREADS
    )
    arguments.add_count(parser, "--target", 20, "target tokens of every sentence", 200)
    arguments.add_count(parser, "--sentences", 2000, "sentences", arguments.MAX_LINES)
    arguments.add_count(parser, "--rounds", 3, "measurements of each system")
    arguments.add_sizes(parser, "--beam", "1,4", "beam sizes", arguments.MAX_BEAM)
    arguments.add_sizes(parser, "--batch", "32,128", "sentences in a batch")
    arguments.add_output(parser, "build/forced_length")
    args = parser.parse_args(argv)
    args.device = arguments.device(args)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    machine = describe(args.device, args.threads or processors())
    results = {"machine": machine, "target": args.target, "sentences": args.sentences, "rows": rows}
    items = facts(machine | {"target tokens": args.target})
    text = page("Searches at a forced length", items, "", TABLE.markdown(rows))
    write_files(args.output, {"results.json": as_json(results), "results.md": text})
    print(TABLE.head(), *map(TABLE.line, rows), sep="\n")
    print(f"\nwrote {args.output}/results.json and .md")
    return 0


if __name__ == "__main__":
    run(main)
