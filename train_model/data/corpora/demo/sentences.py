"""The demo corpus: phrases alone and joined into sentences, split so that no content is shared.

A phrase belongs to the split that a hash of its content chooses. A date written in two ways is one
content, so a test phrase is new in every form, alone and inside a sentence.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from train_model.data.corpora.demo.phrases import KINDS, Phrase
from train_model.data.files import SPLITS
from train_model.progress import task

HELD_OUT_PERCENT = 5  # of all contents, for valid and for test each
POOL_PER_PAIR = 1.2  # phrases drawn for each training pair
JOINED_LENGTHS = {
    1: 40,
    2: 26,
    3: 20,
    4: 14,
}  # share of the pairs with this number of phrases, in percent
# None of these words occurs inside a phrase: "three hundred and five" is one number, not two.
JOINTS = ((" and also ", " und auch "), (" or ", " oder "), (" and then ", " und dann "))
MARKS = {".": 10, "?": 2, "!": 1}  # percent of the pairs that end with each
LIST_COMMA, LIST_END = (", ", ", "), (", and ", " und ")


class Pair(NamedTuple):
    """One line of the corpus: English, German, and of how many phrases it is made."""

    source: str
    target: str
    phrases: int


def split_of(key: str, seed: int) -> str:
    """The split that a content belongs to; depends on nothing but the content and the seed."""
    percent = int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:4]) % 100
    if percent < HELD_OUT_PERCENT:
        return "test"
    return "valid" if percent < 2 * HELD_OUT_PERCENT else "train"


def generate(sizes: dict[str, int], seed: int) -> dict[str, list[Pair]]:
    """Make the corpus: ``sizes[split]`` different pairs per split, in random order.

    The same arguments give the same corpus, with the same versions of num2words and Babel.

    Args:
        sizes: pairs per split.
        seed: of the random choices, and of the split of each content.
    """
    rng = random.Random(seed)
    pools = _draw_pools(rng, sizes, seed)
    return {
        split: [_end(pair, rng) for pair in _make_pairs(rng, pools[split], sizes[split], split)]
        for split in SPLITS
    }


def _end(pair: Pair, rng: random.Random) -> Pair:
    """Let the pair end with a mark, or with none, as often as ``MARKS`` says."""
    end = rng.choices([*MARKS, ""], [*MARKS.values(), 100 - sum(MARKS.values())])[0]
    return pair._replace(source=pair.source + end, target=pair.target + end)


def join(phrases: Sequence[Phrase], rng: random.Random) -> Pair:
    """Two phrases around a conjunction, or a list with commas and a final 'and'."""
    if len(phrases) == 2:
        joints: Iterable[tuple[str, str]] = [rng.choice(JOINTS)]
    else:
        joints = [LIST_COMMA] * (len(phrases) - 2) + [LIST_END] * (len(phrases) > 1)
    source, target = phrases[0].source, phrases[0].target
    for (english, german), phrase in zip(joints, phrases[1:], strict=True):
        source += english + phrase.source
        target += german + phrase.target
    return Pair(source, target, len(phrases))


def _draw_pools(rng: random.Random, sizes: dict[str, int], seed: int) -> dict[str, list[Phrase]]:
    """Different phrases for every split, enough for the singles and the longest list of each."""
    singles = JOINED_LENGTHS[1] / sum(JOINED_LENGTHS.values())
    least = max(JOINED_LENGTHS)
    wanted = {
        split: max(least, int(size * singles * POOL_PER_PAIR) + 1) for split, size in sizes.items()
    }
    wanted["train"] = max(wanted["train"], int(sizes["train"] * POOL_PER_PAIR))
    kinds = list(KINDS)
    pools: dict[str, dict[str, Phrase]] = {split: {} for split in SPLITS}
    with task("phrases", sum(wanted.values()), "phrases") as progress:
        while any(len(pools[split]) < wanted[split] for split in SPLITS):
            phrase = rng.choices(kinds, KINDS.values())[0](rng)
            pool = pools[split_of(phrase.key, seed)]
            known = pool.setdefault(phrase.source, phrase)
            if known.target != phrase.target:
                raise AssertionError(
                    f"{phrase.source!r} is both {known.target!r} and {phrase.target!r}"
                )
            progress.reach(sum(min(len(pools[s]), wanted[s]) for s in SPLITS))
    return {split: list(pool.values()) for split, pool in pools.items()}


def _make_pairs(rng: random.Random, pool: list[Phrase], size: int, split: str) -> list[Pair]:
    singles = round(size * JOINED_LENGTHS[1] / sum(JOINED_LENGTHS.values()))
    pairs = {
        phrase.source: Pair(phrase.source, phrase.target, 1) for phrase in rng.sample(pool, singles)
    }
    counts = [count for count in JOINED_LENGTHS if count > 1]
    weights = [JOINED_LENGTHS[count] for count in counts]
    with task(f"{split} pairs", size, "pairs") as progress:
        while len(pairs) < size:
            count = rng.choices(counts, weights)[0]
            pair = join(rng.sample(pool, count), rng)
            pairs.setdefault(pair.source, pair)
            progress.reach(len(pairs))
    result = list(pairs.values())
    rng.shuffle(result)
    return result
