"""WMT16 English to German from the publishers' raw text, prepared like mit-han-lab's training archive.

    python -m train_model.data.prepare --corpus wmt16-raw
    python -m train_model.train --recipe wmt16-ar-496 --corpus wmt16-raw

Europarl 7, Common Crawl and News Commentary 11 (1.2 GB of archives, 4.5 million pairs) are fetched into
data_model/wmt16-raw unless they are there. They are tokenised, cleaned to 1..80 tokens and split by 32,000
joint merges. newstest2013 is the validation set, newstest2014 the test set. A stopped run keeps its finished
steps.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train_model.cli import UserError, atomic_path
from train_model.data.corpora.raw_text import (
    archived_lines,
    binarise_with_bpe,
    is_clean,
    obtain,
    segments,
    write_tokenised,
)
from train_model.data.files import SPLITS, claim, read_lines, step

LANGUAGES = ("en", "de")
DOWNLOADS = Path("data_model/wmt16-raw")
MERGES = 32_000
MAX_TOKENS, MAX_RATIO = 80, 9.0  # limits of a training pair; the ratio is clean-corpus-n.perl's


@dataclass(frozen=True)
class Source:
    """Parallel text in one archive: its address, and the member of each language."""

    split: str
    url: str
    members: tuple[str, str]

    @property
    def archive(self) -> str:
        """The local file name; two of the published archives differ only in their folder."""
        return f"{self.split}-{self.url.rsplit('/', 1)[1]}"


SOURCES = (
    Source(
        "train",
        "http://www.statmt.org/europarl/v7/de-en.tgz",
        ("europarl-v7.de-en.en", "europarl-v7.de-en.de"),
    ),
    Source(
        "train",
        "http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
        ("commoncrawl.de-en.en", "commoncrawl.de-en.de"),
    ),
    Source(
        "train",
        "http://data.statmt.org/wmt16/translation-task/training-parallel-nc-v11.tgz",
        ("news-commentary-v11.de-en.en", "news-commentary-v11.de-en.de"),
    ),
    Source(
        "valid",
        "http://data.statmt.org/wmt16/translation-task/dev.tgz",
        ("newstest2013.en", "newstest2013.de"),
    ),
    Source(
        "test",
        "http://www.statmt.org/wmt14/test-full.tgz",
        ("newstest2014-deen-src.en.sgm", "newstest2014-deen-ref.de.sgm"),
    ),
)


def prepare(
    folder: Path,
    downloads: Path = DOWNLOADS,
    sources: tuple[Source, ...] = SOURCES,
    merges: int = MERGES,
    processes: int | None = None,
) -> Path:
    """Prepare the corpus under ``folder`` and return the folder that fairseq reads.

    Args:
        folder: receives tokenised/, train/valid/test.en/.de, bpe.codes, a joint dictionary under both
            languages' names, and bin/.
        downloads: folder of the archives; missing ones are fetched into it.
        sources: the training text.
        merges: BPE merges, joint for both languages.
        processes: number of processes that tokenise; None: one per processor.

    Raises:
        UserError: an archive cannot be fetched, is damaged, or is not the corpus.
    """
    processes = processes or len(os.sched_getaffinity(0))
    for source in sources:
        obtain(downloads / source.archive, source.url)
    taken = [[source.url, *source.members] for source in sources]
    claim(folder, {"sources": taken, "folder": str(downloads.resolve()), "merges": merges})
    tokenised = folder / "tokenised"
    for source in sources:
        paths = [tokenised / member for member in source.members]
        step(paths, lambda s=source: _tokenise(downloads / s.archive, s, tokenised, processes))
    for split in SPLITS:
        step(
            [folder / f"{split}.{language}" for language in LANGUAGES],
            lambda split=split: _join(folder, tokenised, sources, split),
        )
    return binarise_with_bpe(folder, folder, LANGUAGES, merges)


def _tokenise(archive: Path, source: Source, folder: Path, processes: int) -> None:
    languages = dict(zip(source.members, LANGUAGES, strict=True))
    for name, lines in archived_lines(archive, source.members):
        text = segments(lines) if name.endswith(".sgm") else lines
        path = folder / name
        step([path], lambda n=name, t=text, p=path: write_tokenised(t, languages[n], p, processes))


def _join(folder: Path, tokenised: Path, sources: tuple[Source, ...], split: str) -> None:
    """Write one file per language with all text of a split; training pairs are cleaned."""
    paths = [folder / f"{split}.{language}" for language in LANGUAGES]
    with (
        atomic_path(paths[0]) as first,
        atomic_path(paths[1]) as second,
        first.open("w", encoding="utf-8") as left,
        second.open("w", encoding="utf-8") as right,
    ):
        for source in sources:
            for pair in _pairs(tokenised, source) if source.split == split else ():
                if split != "train" or is_clean(*pair, MAX_TOKENS, MAX_RATIO):
                    left.write(f"{pair[0]}\n")
                    right.write(f"{pair[1]}\n")


def _pairs(tokenised: Path, source: Source) -> Iterator[tuple[str, str]]:
    try:
        yield from zip(*(read_lines(tokenised / name) for name in source.members), strict=True)
    except ValueError:
        raise UserError(
            f"{' and '.join(source.members)} have not equally many lines; delete {source.archive}"
        ) from None
