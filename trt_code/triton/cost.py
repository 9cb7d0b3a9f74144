"""Computes the cost of a million sentences from a measured throughput and a given price.

    python -m trt_code.triton.cost --measured load.json --price-per-hour 2.50 --utilisation 0.5

Reads what ``trt_code.triton.client --measure`` or ``make bench`` (build/bench/results.json) wrote.
It assumes nothing: without a measurement it gives no price.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train_model.cli import MAX_NUMBER, Parser, UserError, first_line, number, path_argument, run
from train_model.documents import read_json, used

LEAST = 1e-6  # of a price, a share or a rate


@dataclass(frozen=True)
class Rate:
    """A measured throughput: the name of the measurement, and sentences per second on one machine or GPU."""

    what: str
    sentences_per_s: float


def cost_per_million(rate: Rate, price_per_hour: float, utilisation: float) -> float:
    """Return the price of a million sentences, in the currency of ``price_per_hour``.

    ``utilisation`` is the share of paid time in which the GPU works at the measured rate.
    """
    hours = 1e6 / (rate.sentences_per_s * utilisation) / 3600
    return hours * price_per_hour


def gpus_for(rate: Rate, peak: float, utilisation: float) -> int:
    """Return the number of GPUs for ``peak`` sentences per second at ``utilisation`` or less."""
    return math.ceil(peak / (rate.sentences_per_s * utilisation))


def read_rates(path: Path) -> list[Rate]:
    """Read the measured rates of a JSON file.

    Raises:
        UserError: the file is missing or has no measurement.
    """
    data = read_json(path, "measure again")
    with used(path, "what the client or make bench writes", "measure again"):
        rates = list(_rates(data))
    if not rates:
        raise UserError(f"{path} holds no measured sentences_per_s; measure again")
    return rates


def _rates(data: dict) -> Iterator[Rate]:
    if "rows" not in data:
        data = {"rows": [data]}
    for row in data["rows"]:
        if rate := row.get("sentences_per_s"):
            if not LEAST <= rate <= MAX_NUMBER:
                raise ValueError(f"a rate of {str(rate)[:20]}")
            names = [str(row[key]) for key in ("runner", "precision", "device") if key in row]
            if "bs" in row:
                names.append(f"{row['bs']}x{row['sl']}")
            yield Rate(" ".join(names) or row.get("url", "measured"), rate)


def main(argv: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = Parser(prog="python -m trt_code.triton.cost", description=first_line(__doc__))
    add = parser.add_argument
    add("--measured", type=path_argument, required=True, help="JSON of the client or of make bench")
    add(
        "--price-per-hour",
        type=number(LEAST),
        required=True,
        help="price of one GPU with its machine",
    )
    add(
        "--utilisation",
        type=number(LEAST, 1),
        default=0.5,
        help="share of paid time at work; default 0.5",
    )
    add(
        "--peak",
        type=number(LEAST),
        help="sentences per second at the peak; prints how many GPUs that takes",
    )
    args = parser.parse_args(argv)
    for rate in read_rates(args.measured):
        cost = cost_per_million(rate, args.price_per_hour, args.utilisation)
        line = f"{rate.what:<28} {rate.sentences_per_s:10.1f} sentences/s {cost:10.3f} a million"
        if args.peak:
            line += f"  {gpus_for(rate, args.peak, args.utilisation)} GPUs at the peak"
        print(line)


if __name__ == "__main__":
    run(main)
