"""English to German from Debian packages: manuals, user interfaces and package descriptions.

    make corpus CORPUS=en-de                 # full: 92 packages, 542 MB of downloads
    make corpus CORPUS=en-de SIZE=core       # 46 packages

apt-get fetches the packages that data_model/en-de-packages lacks (doc/real_text.md). Nothing is installed.
Writes into the corpus' folder: train, valid and test in .en, .de and .tsv (kind and document of every line),
manifest.tsv (version, SHA-256 and licences of every package), statistics.json, the SentencePiece model and
fairseq's binary data. The same packages give the same bytes.
"""

import functools
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from train_model.cli import UserError, atomic_path
from train_model.data.binary import Units, binarise, binary_files, write_split
from train_model.data.corpora.en_de import debian, packages
from train_model.data.corpora.en_de.debian import LANGUAGES
from train_model.data.corpora.en_de.english import untranslated
from train_model.data.corpora.en_de.pieces import MODEL, SYMBOLS, SampledSentencePiece, learn
from train_model.data.corpora.en_de.readers import clean_pairs, read_descriptions, read_packages
from train_model.data.corpora.en_de.splitting import Row, Split, split
from train_model.data.dictionary import Dictionary
from train_model.data.files import (
    SPLITS,
    claim,
    copy,
    files_in,
    read_lines,
    sha256_of,
    step,
    write_lines,
)
from train_model.data.subwords import SentencePiece
from train_model.documents import read_json, used
from train_model.processes import FORK
from train_model.progress import track

PACKAGES = Path("data_model/en-de-packages")
VARIANTS, DROPOUT, SEED = 4, 0.1, 1
"""In the sampled corpus: segmentations per training pair, and the share of merges left out in all but one."""


def prepare(
    folder: Path, source: Path = PACKAGES, core: bool = False, symbols: int = SYMBOLS
) -> Path:
    """Prepare the corpus under ``folder`` and return the folder that fairseq reads.

    Args:
        folder: receives text, manifest, statistics, SentencePiece model, dictionaries and bin/.
        source: folder of the packages and package lists; missing ones are fetched into it.
        core: use only the bundles with the most text per megabyte, and those held out.
        symbols: size of the dictionary.

    Raises:
        UserError: packages are missing and cannot be fetched, or are damaged.
    """
    _write_text(folder, source, core, symbols)
    processor = SampledSentencePiece(folder / MODEL)

    def units(name: str, language: str) -> Iterator[list[str]]:
        return map(processor.split, read_lines(folder / f"{name}.{language}"))

    paths = [folder / f"dict.{language}.txt" for language in LANGUAGES]
    step(paths, lambda: _write_dictionary(paths, processor.symbols(), units))
    return binarise(folder, units, LANGUAGES)


def _write_dictionary(paths: list[Path], symbols: list[str], units: Units) -> None:
    """Write all pieces, the most frequent first, also those that only sampled segmentations use."""
    frequencies = Counter(dict.fromkeys(symbols, 0))
    for language in LANGUAGES:
        for line in track(units("train", language), f"dictionary {language}", unit="lines"):
            frequencies.update(line)
    # a character outside the model does not become a symbol
    dictionary = Dictionary.from_frequencies({symbol: frequencies[symbol] for symbol in symbols})
    for path in paths:
        dictionary.save(path)


prepare_core = functools.partial(prepare, core=True)


def prepare_sampled(folder: Path, source: Path = PACKAGES, symbols: int = SYMBOLS) -> Path:
    """Prepare the corpus with several segmentations of each training pair, for BPE dropout.

    The first is the usual one; the others leave out merges at random (Provilkov et al. 2020, arXiv
    1910.13267). Valid, test, dictionary and SentencePiece model are those of the plain corpus.

    Raises:
        UserError: see :func:`prepare`.
    """
    plain = _claim_next_to_plain(
        folder, source, symbols, variants=VARIANTS, dropout=DROPOUT, seed=SEED
    )
    for language in LANGUAGES:
        name = f"dict.{language}.txt"
        step([folder / name], lambda name=name: copy(plain / name, folder / name))
    processor = SampledSentencePiece(plain / MODEL)

    def units(name: str, language: str) -> Iterator[list[str]]:
        lines = list(read_lines(plain / f"{name}.{language}"))
        yield from map(processor.split, lines)
        if name == "train":
            processor.seed(SEED + LANGUAGES.index(language))
            for _ in range(VARIANTS - 1):
                yield from (processor.sample(line, DROPOUT) for line in lines)

    return binarise(folder, units, LANGUAGES)


def prepare_english(folder: Path, source: Path = PACKAGES, symbols: int = SYMBOLS) -> Path:
    """Prepare English text for a teacher: that of the training pairs, and more without a German edition.

    There is no German training text. Valid, test, dictionary and SentencePiece model are those of the plain
    corpus.

    Raises:
        UserError: see :func:`prepare`.
    """
    plain = _claim_next_to_plain(folder, source, symbols)

    def write_text() -> None:
        pairs, *held_out = (list(read_lines(plain / f"{name}.en")) for name in SPLITS)
        lines = [*pairs, *untranslated(source, pairs, itertools.chain(*held_out))]
        write_lines(folder / "train.en", lines)

    step([folder / "train.en"], write_text)
    own = folder / "bin"
    own.mkdir(exist_ok=True)
    for path in files_in(plain / "bin"):
        if not path.name.startswith("train."):
            step([own / path.name], lambda path=path: copy(path, own / path.name))
    stem = own / "train.en-de.en"
    step(
        binary_files(stem),
        lambda: write_split(
            stem,
            map(SentencePiece(plain / MODEL).split, read_lines(folder / "train.en")),
            Dictionary.load(own / "dict.en.txt"),
        ),
    )
    return own


def _claim_next_to_plain(folder: Path, source: Path, symbols: int, **settings: float) -> Path:
    """Claim the folder of a corpus that is made from the plain one; return the plain one, prepared."""
    plain = folder.with_name("en-de")
    prepare(plain, source, symbols=symbols)
    claim(folder, {"en-de": sha256_of(plain / "settings.json"), **settings})
    return plain


def _write_text(folder: Path, source: Path, core: bool, symbols: int) -> None:
    """Write the splits, manifest and statistics, and learn the SentencePiece model."""
    bundles = packages.bundles(core)
    wanted = sorted({names for bundle in bundles.values() for names in bundle})
    debian.fetch(source, wanted)
    found = debian.packages(source, wanted)
    by_name = {package.name: package for package in found}
    lists = {name: _digest(debian.read_list(source, name)) for name in LANGUAGES}
    versions = {package.name: [package.version, package.sha256] for package in found}
    claim(folder, {"packages": versions, "descriptions": lists, "symbols": symbols})
    jobs = [(packages.DESCRIPTIONS, [], source, folder)]
    for name, bundle in bundles.items():
        paths = [by_name[next(n for n in names if n in by_name)].path for names in bundle]
        jobs.append((name, paths, source, folder))
    texts = [folder / f"{name}.{end}" for name in SPLITS for end in (*LANGUAGES, "tsv")]
    step([*texts, folder / "statistics.json"], lambda: _write_splits(folder, jobs))
    step([folder / "manifest.tsv"], lambda: _write_manifest(folder, found))
    step([folder / MODEL], lambda: learn(folder, LANGUAGES, symbols))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_splits(folder: Path, jobs: list[tuple[str, list[Path], Path, Path]]) -> None:
    """Read the bundles in parallel, then split their pairs and write the splits."""
    with FORK.Pool(len(os.sched_getaffinity(0))) as pool:
        done = track(pool.imap_unordered(_read_bundle, jobs), "read", len(jobs), "bundles")
        paths = sorted(done)
    rows: list[Row] = []
    read: dict[str, dict[str, int]] = {}
    for path in paths:
        content = read_json(path, "delete it")
        with used(path, "the pairs of a bundle", "delete it"):
            read[path.stem] = dict(content["counts"])
            rows += [Row.of(path.stem, *pair) for pair in content["pairs"]]
    if not rows:
        raise UserError("the packages have no translations; are they those of the corpus?")
    result = split(rows)
    for name, chosen in result.rows.items():
        columns = {
            "en": [row.english for row in chosen],
            "de": [row.german for row in chosen],
            "tsv": [f"{row.kind}\t{row.document}" for row in chosen],
        }
        for end, lines in columns.items():
            write_lines(folder / f"{name}.{end}", lines)
    with atomic_path(folder / "statistics.json") as temporary:
        temporary.write_text(json.dumps(_statistics(result, read), indent=1) + "\n")


def _read_bundle(job: tuple[str, list[Path], Path, Path]) -> Path:
    """Write the clean pairs of a bundle to a file, unless it exists; return the file."""
    name, paths, source, folder = job
    path = folder / "bundles" / f"{name}.json"
    if not path.is_file():
        texts = read_descriptions(source) if name == packages.DESCRIPTIONS else read_packages(paths)
        counts: Counter[str] = Counter()
        pairs = clean_pairs(name, texts, counts)
        with atomic_path(path) as temporary:
            text = json.dumps({"counts": counts, "pairs": pairs}, ensure_ascii=False)
            temporary.write_text(text, encoding="utf-8")
    return path


def _statistics(result: Split, read: dict[str, dict[str, int]]) -> dict:
    digest = hashlib.sha256()
    splits = {}
    for name, rows in result.rows.items():
        for row in rows:
            digest.update(f"{name}\t{row.english}\t{row.german}\n".encode())
        splits[name] = {
            "pairs": len(rows),
            "words_en": sum(len(row.english.split()) for row in rows),
            "words_de": sum(len(row.german.split()) for row in rows),
            "kinds": dict(sorted(Counter(row.kind for row in rows).items())),
        }
    return {
        **splits,
        "taken out of train": dict(result.dropped),
        "read": read,
        "sha256": digest.hexdigest(),
    }


def _write_manifest(folder: Path, found: list[debian.Package]) -> None:
    lines = ["package\tversion\tbytes\tsha256\tlicences"]
    for package in track(found, "licences", unit="packages"):
        named = ", ".join(debian.licences(package.path)) or "see its copyright file"
        size = package.path.stat().st_size
        fields = (package.name, package.version, str(size), package.sha256, named)
        lines.append("\t".join(fields))
    write_lines(folder / "manifest.tsv", lines)
