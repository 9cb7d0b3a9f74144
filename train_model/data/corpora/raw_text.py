"""Shared steps for corpora of raw text: fetching, unpacking, Moses' tokenizer and cleaning, joint BPE.

Moses' scripts are Perl; sacremoses is its tokenizer in Python.
"""

import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from subword_nmt.learn_bpe import learn_bpe

from train_model.cli import UserError, atomic_path
from train_model.data.binary import binarise
from train_model.data.bpe import load_bpe
from train_model.data.files import BYTE_ORDER_MARK, raw_lines, read_lines, step
from train_model.data.transfer import (
    ARCHIVE_ERRORS,
    Ledger,
    archive_members,
    check_archive,
    fetch,
    open_archive,
)
from train_model.processes import FORK
from train_model.progress import task

MAX_DAMAGED = 0.001  # the largest share of damaged lines in a published text
BATCH, CHUNK = 100_000, 500  # lines in memory, and lines per task of a worker
_SEGMENT = re.compile(r'<seg id="[0-9]*">\s*(.*?)\s*</seg>')


def obtain(archive: Path, url: str) -> None:
    """Fetch ``archive`` from ``url`` unless it exists, and compare it with the first download's checksum.

    The publishers give no checksums, so the first file's is kept in checksums.json in the same folder.

    Raises:
        NetworkError: it cannot be fetched; the part that arrived is kept.
        UserError: it is not the file that was accepted before.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(archive.with_name("checksums.json"))
    if not archive.is_file():
        print(f"fetching {url}")
        part = archive.with_name(f".{archive.name}.part")
        fetch(url, part)
        try:
            check_archive(part)
            ledger.accept(archive.name, part, checked=True)
        except UserError:
            part.unlink()  # the next attempt would take it for the beginning of the file
            raise
        part.replace(archive)
        return
    if not ledger.has_checked(archive.name, archive):
        check_archive(archive)
        ledger.accept(archive.name, archive, checked=True)


def archived_lines(archive: Path, names: Sequence[str]) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield name and lines of the .tgz's members with these names, in any folder; lines are read once.

    Raises:
        UserError: the archive is damaged, or lacks a member.
    """
    missing = set(names)
    try:
        with open_archive(archive, "r:gz") as tar:
            for member in archive_members(tar):
                name = Path(member.name).name
                if member.isfile() and name in missing:
                    missing.remove(name)
                    content = tar.extractfile(member)
                    yield name, _published_lines(content, f"{archive}: {name}")
                if not missing:
                    return
    except ARCHIVE_ERRORS as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error}); delete it and run again"
        ) from error
    raise UserError(f"{archive} lacks {', '.join(sorted(missing)[:3])}; it is not the corpus")


def _published_lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """Yield the lines of a published text; undecodable bytes of a few damaged lines become U+FFFD.

    Raises:
        UserError: more than ``MAX_DAMAGED`` of the lines are not UTF-8.
    """
    damaged, first = 0, 0
    number = 0
    for number, line in enumerate(raw_lines(stream, name), start=1):
        text = line.decode("utf-8", errors="replace")
        if "\ufffd" in text and b"\xef\xbf\xbd" not in line:
            damaged, first = damaged + 1, first or number
        text = text.rstrip("\r\n")
        yield text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text
    if damaged > MAX_DAMAGED * number:
        raise UserError(
            f"{name}, line {first} and {damaged - 1} more of {number} are not UTF-8 text; "
            "delete the archive and get it again"
        )
    if damaged:
        print(
            f"warning: {name}, line {first} and {damaged - 1} more are not UTF-8", file=sys.stderr
        )


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of a test set in SGML."""
    return itertools.chain.from_iterable(map(_SEGMENT.findall, lines))


def tokenizer(language: str) -> Callable[[str], str]:
    """Return Moses' tokenizer, which also escapes the characters that are special in Moses' formats.

    Raises:
        UserError: sacremoses is not installed.
    """
    try:
        from sacremoses import MosesTokenizer
    except ImportError:
        raise UserError("sacremoses is not here; run `pip install sacremoses`") from None
    moses = MosesTokenizer(language)
    return lambda line: moses.tokenize(line, return_str=True)


def write_tokenised(lines: Iterable[str], language: str, path: Path, processes: int = 1) -> None:
    """Tokenise ``lines`` into the file ``path``, in ``processes`` processes."""
    tokenizer(language)  # raise for a missing package before processes start
    lines = iter(lines)
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as output,
        FORK.Pool(processes, _start_worker, (language,)) as pool,
        task(f"tokenise {path.name}", unit="lines") as progress,
    ):
        while batch := list(itertools.islice(lines, BATCH)):
            output.writelines(f"{line}\n" for line in pool.imap(_work, batch, CHUNK))
            progress.advance(len(batch))


def is_clean(source: str, target: str, max_tokens: int, max_ratio: float) -> bool:
    """Return whether Moses' clean-corpus-n.perl keeps the tokenised pair."""
    sizes = len(source.split()), len(target.split())
    return min(sizes) >= 1 and max(sizes) <= max_tokens and max(sizes) <= max_ratio * min(sizes)


def learn_joint_bpe(folder: Path, languages: tuple[str, str], merges: int, codes: Path) -> None:
    """Learn merges from the training text of both languages under ``folder`` and write ``codes``.

    Raises:
        UserError: the text has no word of two characters, so that there is nothing to merge.
    """
    words: Counter[str] = Counter()
    for language in languages:
        for line in read_lines(folder / f"train.{language}"):
            words.update(line.split())
    if all(len(word) < 2 for word in words):
        raise UserError(
            f"{folder}/train.* has no word of two characters; put the corpus' text there"
        )
    vocabulary = [f"{word} {count}" for word, count in sorted(words.items())]
    with (
        atomic_path(codes) as temporary,
        temporary.open("w", encoding="utf-8") as output,
    ):
        learn_bpe(vocabulary, output, merges, is_dict=True)


def binarise_with_bpe(
    folder: Path, text: Path, languages: tuple[str, str], merges: int, joined: bool = True
) -> Path:
    """Learn joint merges from the tokenised splits under ``text``, and write fairseq's binary files.

    Args:
        folder: where ``bpe.codes``, the dictionaries and ``bin`` are made.
        text: the folder of ``train.LANGUAGE``, ``valid.LANGUAGE`` and ``test.LANGUAGE``.
        languages: source and target.
        merges: the number of merges.
        joined: one dictionary for both languages.

    Returns:
        The folder that fairseq reads.
    """
    codes = folder / "bpe.codes"
    step([codes], lambda: learn_joint_bpe(text, languages, merges, codes))
    bpe = load_bpe(codes)

    def units(split: str, language: str) -> Iterator[list[str]]:
        return (bpe.segment(line).split() for line in read_lines(text / f"{split}.{language}"))

    return binarise(folder, units, languages, joined)


_tokenise: Callable[[str], str]  # in a worker process


def _start_worker(language: str) -> None:
    global _tokenise
    _tokenise = tokenizer(language)


def _work(line: str) -> str:
    return _tokenise(line)
