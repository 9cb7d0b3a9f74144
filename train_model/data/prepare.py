"""Prepare a corpus for training: text, BPE codes, dictionary, and the binary files fairseq reads.

    python -m train_model.data.prepare --corpus demo

Everything lands in build/data/<corpus>; a run that was stopped goes on where it was, and a finished
one is left alone. ``--corpus wmt16`` takes the text that ``make download`` brings, which is split into
subwords already.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from subword_nmt.apply_bpe import isolate_glossary
from subword_nmt.learn_bpe import learn_bpe
from tqdm import tqdm

from train_model.cli import UserError, atomic_path, run
from train_model.data import corpus, phrases
from train_model.data.corpus import SPLITS, generate
from train_model.data.dictionary import EOS, Dictionary
from train_model.data.tokenizer import glossary_path, load_bpe, split_units

LANGUAGES = ("en", "de")
DEMO_SIZES = {"train": 120_000, "valid": 2_000, "test": 2_000}
DEMO_SEED = 1
DEMO_MERGES = 600
SINGLE = "single"  # the test split's single phrases
# Units of their own, whatever stands beside them: a figure, a sign, and what German number words are
# made of, so that "siebenhundertdreiunddreißig" has as many as "seven hundred and thirty-three".
# "hundert" is two units where more follows, as "hundred and" is, and so is "tausend" before no hundreds.
DEMO_GLOSSARY = (
    "[0-9.,:/%$€£-]",
    "(?:hund(?=ert(?!tausend|sten?$)[a-zäöüß])|(?<=hund)ert"
    "|tau(?=send(?!sten?$|.*hundert)[a-zäöüß])|(?<=tau)send"
    "|(?:(?:drei|vier|fünf|sech|sieb|acht|neun)zehn|(?:zwan|vier|fünf|sech|sieb|acht|neun)zig|dreißig"
    "|hundert|tausend|zwei|vier|fünf|sechs|neun|zehn|(?<!w)elf|zwölf)(?:s?ten?$)?"
    "|drei|sieben|acht(?:en?$)?|ein(?=und)|und(?=zwan|drei|vier|fünf|sech|sieb|acht|neun))",
)
DISTILLED = "-distilled"  # behind the name of a corpus: its targets are a teacher's translations
WMT16 = Path("data_model/wmt16")
WMT16_FILES = {  # names in the archive of the data set, without the language
    "train": "train.tok.clean.bpe.32000",
    "valid": "newstest2013.tok.bpe.32000",
    "test": "newstest2014.tok.bpe.32000",
}


def prepare_demo(
    folder: Path, sizes: dict[str, int] = DEMO_SIZES, merges: int = DEMO_MERGES
) -> Path:
    """Generate the demo corpus under ``folder`` and return the folder that fairseq reads.

    Args:
        folder: receives train/valid/test/single.en/.de, bpe.codes, bpe.glossary, dict.en.txt,
            dict.de.txt, and bin/.
        sizes: pairs a split.
        merges: BPE merges, joint for both languages.
    """
    settings = {"sizes": sizes, "seed": DEMO_SEED, "merges": merges, "glossary": DEMO_GLOSSARY}
    claim(folder, settings | {"generator": _generator_version()})
    texts = [
        folder / f"{split}.{language}" for split in (*SPLITS, SINGLE) for language in LANGUAGES
    ]
    step(texts, lambda: _write_corpus(folder, sizes))
    step([folder / "bpe.codes"], lambda: _learn_bpe(folder, merges))
    known = folder / "dict.en.txt"

    def units(split: str, language: str) -> Iterator[list[str]]:
        dictionary = Dictionary.load(known) if known.is_file() else None
        bpe = load_bpe(folder / "bpe.codes", dictionary)
        return (split_units(bpe, line) for line in read_lines(folder / f"{split}.{language}"))

    return finish(folder, units)


def prepare_wmt16(folder: Path, source: Path = WMT16) -> Path:
    """Binarise the downloaded WMT16 English-German text and return the folder that fairseq reads.

    Raises:
        UserError: a file of the data set is missing.
    """
    names = [f"{name}.{language}" for name in WMT16_FILES.values() for language in LANGUAGES]
    for name in names:
        if not (source / name).is_file():
            raise UserError(
                f"no {source / name}; run `make download` (RECIPE=demo needs no download)"
            )
    claim(folder, {"source": str(source.resolve()), "files": names})
    dictionary = source / "dict.en.txt"
    if dictionary.is_file():  # the public checkpoint's own; its embeddings are in this order
        for language in LANGUAGES:
            step(
                [folder / f"dict.{language}.txt"],
                lambda language=language: _copy(dictionary, folder / f"dict.{language}.txt"),
            )

    def units(split: str, language: str) -> Iterator[list[str]]:
        return (line.split() for line in read_lines(source / f"{WMT16_FILES[split]}.{language}"))

    return finish(folder, units)


def _prepare_iwslt14(folder: Path) -> Path:
    from train_model.data.iwslt14 import prepare_iwslt14  # needs this module, and sacremoses

    return prepare_iwslt14(folder)


def _prepare_wmt16_raw(folder: Path) -> Path:
    from train_model.data.wmt16_raw import prepare_wmt16_raw

    return prepare_wmt16_raw(folder)


def _prepare_cnndm(folder: Path) -> Path:
    from train_model.data.cnndm import prepare_cnndm

    return prepare_cnndm(folder)


CORPORA: dict[str, Callable[[Path], Path]] = {
    "demo": prepare_demo,
    "wmt16": prepare_wmt16,
    "wmt16-raw": _prepare_wmt16_raw,
    "iwslt14": _prepare_iwslt14,
    "cnndm": _prepare_cnndm,
}


def prepare(name: str, build_dir: str | os.PathLike = "build") -> Path:
    """Prepare a corpus by name; returns the folder that fairseq reads.

    Raises:
        UserError: there is no corpus of that name, its text is missing, or it has to be distilled.
    """
    folder = Path(build_dir) / "data" / name
    original = name.removesuffix(DISTILLED)
    if original not in CORPORA:
        raise UserError(f"no corpus {name!r}; there are: {', '.join(CORPORA)}")
    if name == original:
        return CORPORA[name](folder)
    if not list(folder.glob("bin/train.*-*.*.idx"))[1:]:
        raise UserError(
            f"no {folder}, or half of it; make it: python -m train_model.distill --help"
        )
    return folder / "bin"


def _generator_version() -> list[str]:
    """What decides the text besides the settings: the generator's code and its two sources."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (phrases, corpus))
    packages = [f"{name} {metadata.version(name)}" for name in ("num2words", "babel")]
    return [hashlib.sha256(code).hexdigest(), *packages]


def claim(folder: Path, settings: dict) -> None:
    """Start over if the folder holds a corpus that was made with other settings."""
    record = folder / "settings.json"
    text = json.dumps(settings, indent=1)
    if record.is_file() and record.read_text(encoding="utf-8") == text:
        return
    if folder.exists():
        shutil.rmtree(folder)
    with atomic_path(record) as temporary:
        temporary.write_text(text, encoding="utf-8")


def step(outputs: list[Path], make: Callable[[], None]) -> None:
    """Call ``make`` unless all that it makes is there."""
    if not all(output.is_file() for output in outputs):
        make()


def _write_corpus(folder: Path, sizes: dict[str, int]) -> None:
    """Write the splits, and those test pairs that are a single phrase as a split of their own."""
    splits = generate(sizes, DEMO_SEED)
    splits[SINGLE] = [pair for pair in splits["test"] if pair.phrases == 1]
    for split, pairs in splits.items():
        for language, lines in zip(
            LANGUAGES, zip(*(pair[:2] for pair in pairs), strict=True), strict=True
        ):
            with atomic_path(folder / f"{split}.{language}") as temporary:
                temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _learn_bpe(folder: Path, merges: int) -> None:
    """Write the glossary, and learn the most frequent merges of the parts of words that it leaves.

    With it a translation has about as many tokens as its source, and they come in nearly the same
    order. That is what the network needs: it predicts the length of the whole translation before its
    first token, and a token of German from where it is.
    """
    codes = folder / "bpe.codes"
    with atomic_path(glossary_path(codes)) as temporary:
        temporary.write_text("\n".join(DEMO_GLOSSARY) + "\n", encoding="utf-8")
    words = Counter(
        word
        for language in LANGUAGES
        for line in read_lines(folder / f"train.{language}")
        for word in line.split()
    )
    parts: Counter[str] = Counter()
    for word, count in words.items():
        pieces = [word]
        for entry in DEMO_GLOSSARY:
            pieces = [piece for word in pieces for piece in isolate_glossary(word, entry)]
        for piece in pieces:
            if not any(re.fullmatch(entry, piece) for entry in DEMO_GLOSSARY):
                parts[piece] += count
    vocabulary = [f"{part} {count}" for part, count in sorted(parts.items())]
    with atomic_path(codes) as temporary, temporary.open("w", encoding="utf-8") as learned:
        learn_bpe(vocabulary, learned, merges, is_dict=True)


def finish(
    folder: Path,
    units: Callable[[str, str], Iterator[list[str]]],
    languages: tuple[str, str] = LANGUAGES,
    joined: bool = True,
) -> Path:
    """Count the training text's units into dictionaries, then write every split in binary.

    Args:
        units: the subword units of every line of a split in a language.
        languages: source and target.
        joined: one dictionary for both, or else one each.

    Returns:
        The folder that fairseq reads.
    """
    dictionaries = {language: folder / f"dict.{language}.txt" for language in languages}
    for together in [languages] if joined else [(language,) for language in languages]:
        paths = [dictionaries[language] for language in together]
        step(paths, lambda together=together, paths=paths: _count(units, together, paths))
    binary = folder / "bin"
    for path in dictionaries.values():
        step([binary / path.name], lambda path=path: _copy(path, binary / path.name))
    for split in SPLITS:
        for language, path in dictionaries.items():
            stem = binary / f"{split}.{'-'.join(languages)}.{language}"
            step(
                [stem.with_name(f"{stem.name}.{end}") for end in ("bin", "idx")],
                lambda stem=stem, split=split, language=language, path=path: _binarise(
                    stem, units(split, language), Dictionary.load(path)
                ),
            )
    return binary


def _count(
    units: Callable[[str, str], Iterator[list[str]]], languages: Iterable[str], paths: list[Path]
) -> None:
    frequencies: Counter[str] = Counter()
    for language in languages:
        for line in tqdm(units("train", language), desc=f"dictionary {language}", unit=" line"):
            frequencies.update(line)
    dictionary = Dictionary.from_frequencies(frequencies)
    for path in paths:
        dictionary.save(path)


def _binarise(stem: Path, lines: Iterable[list[str]], dictionary: Dictionary) -> None:
    rows = ([*map(dictionary.index, units), EOS] for units in lines)
    write_binary(stem, tqdm(rows, desc=stem.name, unit=" line"), len(dictionary))


def write_binary(stem: Path, rows: Iterable[Sequence[int]], vocab_size: int) -> None:
    """Write fairseq's memory-mapped form: ``stem``.bin has the ids of every row, each closed by eos."""
    from train_model import fairseq_compat

    fairseq_compat.prepare()
    import torch
    from fairseq.data import indexed_dataset

    with (
        atomic_path(stem.with_name(f"{stem.name}.idx")) as index,
        atomic_path(stem.with_name(f"{stem.name}.bin")) as data,
    ):
        builder = indexed_dataset.make_builder(str(data), impl="mmap", vocab_size=vocab_size)
        for row in rows:
            builder.add_item(torch.as_tensor(row, dtype=torch.int32))
        builder.finalize(str(index))


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, without their ends."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--corpus", default="demo", help=f"one of: {', '.join(CORPORA)} (default demo)"
    )
    parser.add_argument("--build-dir", default="build", help="default build")
    options = parser.parse_args(argv)
    print(f"ready: {prepare(options.corpus, options.build_dir)}")


if __name__ == "__main__":
    run(main)
