"""Post-training quantisation: a checkpoint in INT8 from one in FP32 and a few hundred sentences.

    python -m train_model.quantization.ptq --model demo --output build/demo-ptq/checkpoint.pt

Every linear layer, the output projection included, computes in INT8, except those that ``--keep`` names.
Other layers do not change. An autoregressive network is calibrated by greedy search. ``make qat`` starts from
the result for a one-pass network. See doc/int8.md.
"""

import dataclasses
import fnmatch
import time
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from train_model.cli import (
    Parser,
    UserError,
    add_count,
    check_output,
    first_line,
    path_argument,
    run,
)
from train_model.model_folder import MODEL_HELP, find_model
from train_model.models.architectures import architecture_of
from train_model.models.checkpoint import load_marked, save_checkpoint
from train_model.models.quantized import linears
from train_model.quantization.calibration import METHODS, calibrate
from train_model.quantization.text import batches, calibration_rows

# Becomes a table of the positions before the export (train_model/models/fold.py), without a product.
FOLDED = "decoder.copy_attn"


def layers_to_quantize(model: nn.Module, keep: Iterable[str] = ()) -> list[str]:
    """Return the names of the linear layers that will compute in INT8.

    Args:
        model: a network whose projections are merged.
        keep: patterns (``*`` for any text) of layers that keep their precision.

    Raises:
        UserError: a pattern matches no layer, or no layer is left.
    """
    names = [name for name, _ in linears(model) if name != FOLDED]
    kept: set[str] = set()
    for pattern in keep:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise UserError(
                f"--keep {pattern!r} fits no layer; layers are {', '.join(names[:3])}, ... {names[-1]}"
            )
        kept.update(found)
    chosen = [name for name in names if name not in kept]
    if not chosen:
        raise UserError("--keep leaves no layer in INT8; name fewer, or use the FP32 network")
    return chosen


def quantize(
    model: nn.Module,
    keep: Iterable[str],
    batches: Iterable[Tensor],
    method: str = "max",
) -> nn.Module:
    """Return the network in INT8; ``model`` does not change.

    Args:
        model: the network in FP32.
        keep: see :func:`layers_to_quantize`.
        batches: source tokens [B, S] int64 for the calibration.
        method: see :func:`train_model.quantization.calibration.calibrate`.

    Raises:
        UserError: the network is in INT8 already, nvidia-modelopt is not installed, or see
            :func:`layers_to_quantize`.
    """
    if model.config.int8_layers:
        raise UserError("the network is in INT8 already; give the checkpoint it was made from")
    merged = architecture_of(model).merge(model)
    names = layers_to_quantize(merged, keep)
    return with_ranges(merged, names, calibrate(merged, names, batches, method))


def with_ranges(merged: nn.Module, names: Sequence[str], ranges: dict[str, Tensor]) -> nn.Module:
    """Return a network with ``merged``'s weights, its layers ``names`` in INT8 with the given ranges."""
    config = dataclasses.replace(merged.config, int8_layers=tuple(names))
    quantized = architecture_of(merged).build(config).eval()
    own = quantized.state_dict().keys()
    weights = {f"{name}.weight": merged.get_submodule(name).weight for name in names}
    weights |= merged.state_dict() | {name: ranges[name] for name in ranges if name in own}
    quantized.load_state_dict(weights)
    return quantized


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(description=first_line(__doc__))
    parser.add_argument("--model", default="demo", help=MODEL_HELP)
    parser.add_argument(
        "--output", type=path_argument, help="default build/<model>-ptq/checkpoint.pt"
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers that stay as they are, such as 'decoder.layers.*.fc2'; repeatable",
    )
    parser.add_argument(
        "--method", choices=METHODS, default="max", help="how to calibrate the inputs' ranges"
    )
    parser.add_argument(
        "--text", type=path_argument, help="text to calibrate with (default: validation split)"
    )
    add_count(parser, "--sentences", 512, "sentences of it, at most")
    parser.add_argument("--build-dir", type=path_argument, default="build", help="default build")
    options = parser.parse_args(argv)
    files = find_model(options.model, options.build_dir)
    output = options.output or options.build_dir / f"{files.name}-ptq" / "checkpoint.pt"
    check_output(output, files.checkpoint, options.text)
    loaded = load_marked(files.checkpoint)
    config = loaded.config
    rows, origin = calibration_rows(
        files, options.text, options.sentences, config.src_vocab, config.max_source_positions
    )
    if files.autoregressive:  # its sources have no bos
        rows = [row[1:] for row in rows]
    start = time.perf_counter()
    tokens = [tokens for _, tokens in batches(rows)]
    model = quantize(loaded.model, options.keep, tokens, options.method)
    save_checkpoint(output, model, model.config)
    print(
        f"{output}: {len(model.config.int8_layers)} layers in INT8, ranges ({options.method}) from "
        f"{origin}, in {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    run(main)
