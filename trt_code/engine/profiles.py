"""Optimisation profiles: the batches and lengths that an engine is built for.

A shape is written ``BxS``: sentences in a batch times source tokens in a row, the padding included. The
halves of a network have more axes, such as the beam of a search. Each of these has one range, which all
profiles share.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from train_model.cli import UserError, size


class Shape(NamedTuple):
    """A batch of ``batch`` sentences padded to ``length`` tokens."""

    batch: int
    length: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}"


def shape_argument(text: str) -> Shape:
    """Parse ``"16x32"`` for argparse."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(map(size, parts)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shape; write batch x length, as in 16x32"
        )
    return Shape(int(parts[0]), int(parts[1]))


@dataclass(frozen=True)
class Profile:
    """The shapes that a profile accepts (``min`` to ``max``), and the one it is tuned for (``opt``)."""

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self):
        for axis in Shape._fields:
            low, best, high = (getattr(shape, axis) for shape in (self.min, self.opt, self.max))
            if not low <= best <= high:
                raise UserError(
                    f"the profile {self} excludes its own opt: {axis} {best} is not within "
                    f"{low} to {high}; choose --min <= --opt <= --max"
                )

    def __str__(self) -> str:
        return f"min {self.min} opt {self.opt} max {self.max}"

    def accepts(self, shape: Shape) -> bool:
        return all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )


class Range(NamedTuple):
    """The sizes of an axis that an engine accepts (``min`` to ``max``) and is tuned for (``opt``)."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


def range_argument(text: str) -> tuple[str, Range]:
    """Parse ``"beam=1:1:4"`` for argparse."""
    name, equals, sizes = text.partition("=")
    numbers = sizes.split(":")
    if not (name and equals and len(numbers) == 3 and all(size(n) or n == "0" for n in numbers)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a range of an axis; write name=min:opt:max, as in beam=1:1:4"
        )
    sizes = Range(*map(int, numbers))
    if not 1 <= sizes.min <= sizes.opt <= sizes.max:
        raise argparse.ArgumentTypeError(f"{text!r} has not 1 <= min <= opt <= max")
    return name, sizes


def default_ranges(target_positions: int) -> dict[str, Range]:
    """Return the ranges of the axes other than batch and source.

    ``beam`` is the number of hypotheses per sentence, ``room`` the number of tokens that a search's state can
    hold, and ``canvas`` the width of a one-pass translation. The last two end at ``target_positions``.
    """
    usual = Range(1, min(32, target_positions), target_positions)
    return {"beam": Range(1, 1, 4), "room": usual, "canvas": usual}


def named_sizes(profile: Profile, ranges: Mapping[str, Range]) -> list[dict[str, int]]:
    """Return each axis's size by name at a profile's min, opt and max; ``rows`` is batch times beam."""
    sizes = []
    for point, shape in zip(Range._fields, (profile.min, profile.opt, profile.max), strict=True):
        named = {name: getattr(limits, point) for name, limits in ranges.items()}
        named |= {"batch": shape.batch, "src_len": shape.length}
        sizes.append(named | {"rows": shape.batch * named.get("beam", 1)})
    return sizes


def default_profile(positions: int) -> Profile:
    """Return the default profile: every length up to ``positions``, in batches up to 64."""
    return Profile(Shape(1, 1), Shape(16, min(32, positions)), Shape(64, positions))


def profiles_from_flags(
    minima: Sequence[Shape], optima: Sequence[Shape], maxima: Sequence[Shape], positions: int
) -> list[Profile]:
    """Pair repeated ``--min``, ``--opt`` and ``--max`` in the order given; none gives the default.

    Args:
        positions: the longest source that the network has positions for.

    Raises:
        UserError: the three are not given equally often, or a profile excludes its opt or is longer
            than the network.
    """
    if not (minima or optima or maxima):
        return [default_profile(positions)]
    if not len(minima) == len(optima) == len(maxima):
        raise UserError(
            f"--min is given {len(minima)}, --opt {len(optima)}, --max {len(maxima)} times; "
            "each profile needs one of each"
        )
    profiles = [Profile(*shapes) for shapes in zip(minima, optima, maxima, strict=True)]
    for profile in profiles:
        if profile.max.length > positions:
            raise UserError(
                f"the profile {profile} is longer than the network, which has {positions} positions; "
                f"give a --max of at most {profile.max.batch}x{positions}"
            )
    return profiles


def best_profile(profiles: Sequence[Profile], shape: Shape) -> int:
    """Return the index of the accepting profile whose opt is nearest in size.

    Raises:
        UserError: no profile accepts the shape.
    """
    accepting = [index for index, profile in enumerate(profiles) if profile.accepts(shape)]
    if not accepting:
        ranges = "; ".join(f"{profile.min} to {profile.max}" for profile in profiles)
        raise UserError(
            f"the shape {shape} is outside the engine's profiles ({ranges}); split the input or "
            "build the engine with a wider --max"
        )

    def distance(index: int) -> float:
        opt = profiles[index].opt
        ratio = (opt.batch * opt.length) / (shape.batch * shape.length)
        return max(ratio, 1 / ratio)

    return min(accepting, key=distance)
