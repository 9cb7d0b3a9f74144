"""IWSLT14 German to English, prepared as fairseq's ``prepare-iwslt14.sh`` does.

``make train RECIPE=iwslt14-ar-160`` uses it. The archive (19 MB) is fetched into data_model/iwslt14 unless
it is there.
"""

import re
from collections.abc import Callable
from pathlib import Path

from train_model.cli import UserError
from train_model.data.corpora.raw_text import (
    archived_lines,
    binarise_with_bpe,
    is_clean,
    obtain,
    segments,
    tokenizer,
)
from train_model.data.files import SPLITS, claim, step, write_lines
from train_model.progress import track

URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
DOWNLOADS = Path("data_model/iwslt14")
LANGUAGES = ("de", "en")
MERGES = 10_000
MAX_TOKENS, MAX_RATIO = 175, 1.5  # counted as in Moses' clean-corpus-n.perl
VALID_EVERY = 23
TEST_SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
_NO_TEXT = ("<url>", "<talkid>", "<keywords>")
_TAGS = re.compile(r"</?(?:title|description)>")


def prepare(
    folder: Path, downloads: Path = DOWNLOADS, url: str = URL, merges: int = MERGES
) -> Path:
    """Prepare the corpus under ``folder`` and return the folder that fairseq reads.

    Args:
        folder: receives train/valid/test.de/.en (tokenised, lower case), bpe.codes, one dictionary
            per language, and bin/.
        downloads: folder of the archive, which is fetched into it if missing.
        url: address of the archive.
        merges: BPE merges, joint for both languages.

    Raises:
        UserError: the archive cannot be fetched, or is not the corpus.
    """
    archive = downloads / "de-en.tgz"
    obtain(archive, url)
    claim(folder, {"archive": str(archive.resolve()), "merges": merges})
    texts = [folder / f"{split}.{language}" for split in SPLITS for language in LANGUAGES]
    step(texts, lambda: _write_texts(archive, folder))
    return binarise_with_bpe(folder, folder, LANGUAGES, merges, joined=False)


def _write_texts(archive: Path, folder: Path) -> None:
    """Tokenise, clean and split the archive's text."""
    tokenizers = {language: tokenizer(language) for language in LANGUAGES}
    raw = _read_archive(archive)
    train = [
        [
            tokenizers[language](line)
            for line in track(
                _training_lines(raw[language]["train"]), f"tokenise {language}", unit="lines"
            )
        ]
        for language in LANGUAGES
    ]
    if len(train[0]) != len(train[1]):
        raise UserError(
            f"{archive}: {len(train[0])} German and {len(train[1])} English lines; delete it"
        )
    pairs = [pair for pair in zip(*train, strict=True) if is_clean(*pair, MAX_TOKENS, MAX_RATIO)]
    test = [_test_lines(raw[language], tokenizers[language]) for language in LANGUAGES]
    if len(test[0]) != len(test[1]):
        raise UserError(
            f"{archive}: {len(test[0])} German and {len(test[1])} English test lines; delete it"
        )
    splits = {
        "train": [pair for number, pair in enumerate(pairs, start=1) if number % VALID_EVERY],
        "valid": [pair for number, pair in enumerate(pairs, start=1) if number % VALID_EVERY == 0],
        "test": list(zip(*test, strict=True)),
    }
    for split, content in splits.items():
        for side, language in enumerate(LANGUAGES):
            write_lines(folder / f"{split}.{language}", (pair[side].lower() for pair in content))


def _test_lines(raw: dict[str, list[str]], tokenize: Callable[[str], str]) -> list[str]:
    """Return the tokenised lines of the test sets in one language."""
    return [
        tokenize(line.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
        for name in TEST_SETS
        for line in segments(raw[name])
    ]


def _read_archive(archive: Path) -> dict[str, dict[str, list[str]]]:
    """Return the lines of the used files, by language and by ``train`` or the test set's name."""
    wanted = {
        f"{stem}.{language}{end}": (language, name)
        for language in LANGUAGES
        for name, stem, end in [
            ("train", "train.tags.de-en", ""),
            *((name, f"IWSLT14.{name}.de-en", ".xml") for name in TEST_SETS),
        ]
    }
    found: dict[str, dict[str, list[str]]] = {language: {} for language in LANGUAGES}
    for member, lines in archived_lines(archive, list(wanted)):
        language, name = wanted[member]
        found[language][name] = list(lines)
    return found


def _training_lines(lines: list[str]) -> list[str]:
    """Return the lines of text in order, without the tags around titles and descriptions."""
    return [_TAGS.sub("", line) for line in lines if not any(tag in line for tag in _NO_TEXT)]
