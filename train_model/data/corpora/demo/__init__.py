"""The demo corpus: English and German numbers, dates, times, prices and quantities, generated here.

``phrases`` makes single phrases, ``sentences`` joins them and splits the corpus.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from subword_nmt.apply_bpe import isolate_glossary
from subword_nmt.learn_bpe import learn_bpe

from train_model.cli import atomic_path
from train_model.data.binary import binarise
from train_model.data.bpe import glossary_path, load_bpe
from train_model.data.corpora.demo import phrases, sentences
from train_model.data.dictionary import Dictionary
from train_model.data.files import SPLITS, claim, read_lines, step, write_lines
from train_model.data.text import patterns
from train_model.data.tokenizer import normalise

LANGUAGES = ("en", "de")
SIZES = {"train": 120_000, "valid": 2_000, "test": 2_000}
SEED = 1
MERGES = 600
SINGLE = "single"  # the test split's single phrases
# Units that are never merged with their neighbours: a figure, a sign, and the parts of German number words,
# so that "siebenhundertdreiunddreißig" has as many units as "seven hundred and thirty-three". "hundert" is
# two units if more follows, as "hundred and" is, and so is "tausend" before a number without hundreds.
GLOSSARY = (
    "[0-9.,:/%$€£?!-]",
    "(?:hund(?=ert(?!tausend|sten?$)[a-zäöüß])|(?<=hund)ert"
    "|tau(?=send(?!sten?$|.*hundert)[a-zäöüß])|(?<=tau)send"
    "|(?:(?:drei|vier|fünf|sech|sieb|acht|neun)zehn|(?:zwan|vier|fünf|sech|sieb|acht|neun)zig|dreißig"
    "|hundert|tausend|zwei|vier|fünf|sechs|neun|zehn|(?<!w)elf|zwölf)(?:s?ten?$)?"
    "|drei|sieben|acht(?:en?$)?|ein(?=und)|und(?=zwan|drei|vier|fünf|sech|sieb|acht|neun))",
)


def prepare(folder: Path, sizes: dict[str, int] = SIZES, merges: int = MERGES) -> Path:
    """Generate the demo corpus under ``folder`` and return the folder that fairseq reads.

    Args:
        folder: receives train/valid/test/single.en/.de, bpe.codes, bpe.glossary, seen.txt,
            dict.en.txt, dict.de.txt, and bin/.
        sizes: pairs per split.
        merges: BPE merges, joint for both languages.
    """
    settings = {"sizes": sizes, "seed": SEED, "merges": merges, "glossary": GLOSSARY}
    claim(folder, settings | {"generator": _generator_version()})
    texts = [
        folder / f"{split}.{language}" for split in (*SPLITS, SINGLE) for language in LANGUAGES
    ]
    step(texts, lambda: _write_corpus(folder, sizes))
    step([folder / "bpe.codes"], lambda: _learn_bpe(folder, merges))
    step([folder / "seen.txt"], lambda: _write_patterns(folder))
    known = folder / "dict.en.txt"

    def units(split: str, language: str) -> Iterator[list[str]]:
        dictionary = Dictionary.load(known) if known.is_file() else None
        bpe = load_bpe(folder / "bpe.codes", dictionary)
        lines = read_lines(folder / f"{split}.{language}")
        return (bpe.segment(normalise(line)).split() for line in lines)

    return binarise(folder, units, LANGUAGES)


def _generator_version() -> list[str]:
    """The versions of the generator's code and of its two packages, which decide the text."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (phrases, sentences))
    packages = [f"{name} {metadata.version(name)}" for name in ("num2words", "babel")]
    return [hashlib.sha256(code).hexdigest(), *packages]


def _write_corpus(folder: Path, sizes: dict[str, int]) -> None:
    """Write the splits; test pairs of a single phrase are also a split by themselves."""
    splits = sentences.generate(sizes, SEED)
    splits[SINGLE] = [pair for pair in splits["test"] if pair.phrases == 1]
    for split, pairs in splits.items():
        for language, lines in zip(
            LANGUAGES, zip(*(pair[:2] for pair in pairs), strict=True), strict=True
        ):
            write_lines(folder / f"{split}.{language}", lines)


def _write_patterns(folder: Path) -> None:
    """Write the word patterns of the training sources, outside which a model warns (``text: seen``)."""
    seen = {word for line in read_lines(folder / "train.en") for word in patterns(line)}
    write_lines(folder / "seen.txt", sorted(seen))


def _learn_bpe(folder: Path, merges: int) -> None:
    """Write the glossary, and learn the most frequent merges within the remaining parts of words.

    The glossary gives a translation about as many tokens as its source, in nearly the same order. The network
    needs that: it predicts the length of the whole translation before the first token, and each token from
    its position.
    """
    codes = folder / "bpe.codes"
    write_lines(glossary_path(codes), GLOSSARY)
    words = Counter(
        word
        for language in LANGUAGES
        for line in read_lines(folder / f"train.{language}")
        for word in line.split()
    )
    parts: Counter[str] = Counter()
    for word, count in words.items():
        pieces = [word]
        for entry in GLOSSARY:
            pieces = [piece for word in pieces for piece in isolate_glossary(word, entry)]
        for piece in pieces:
            if not any(re.fullmatch(entry, piece) for entry in GLOSSARY):
                parts[piece] += count
    vocabulary = [f"{part} {count}" for part, count in sorted(parts.items())]
    with atomic_path(codes) as temporary, temporary.open("w", encoding="utf-8") as learned:
        learn_bpe(vocabulary, learned, merges, is_dict=True)
