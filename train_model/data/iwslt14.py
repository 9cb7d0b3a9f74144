"""IWSLT14 German to English, prepared as fairseq's ``prepare-iwslt14.sh`` does.

``make train RECIPE=iwslt14-ar-160`` comes here. The archive (19 MB) is fetched into data_model/iwslt14
unless it lies there; its publisher gives no checksum, so the first one's is kept in checksums.json and
later ones are held against it. Moses' tokenizer is sacremoses, which is the same in Python.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from subword_nmt.learn_bpe import learn_bpe
from tqdm import tqdm

from train_model.cli import UserError, atomic_path
from train_model.data.corpus import SPLITS
from train_model.data.prepare import claim, finish, read_lines, step
from train_model.data.tokenizer import load_bpe
from train_model.data.transfer import Ledger, fetch, refuse_impostor

URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
DOWNLOADS = Path("data_model/iwslt14")
LANGUAGES = ("de", "en")
MERGES = 10_000
MAX_TOKENS, MAX_RATIO = 175, 1.5  # of a training pair, as Moses' clean-corpus-n.perl counts
VALID_EVERY = 23
TEST_SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
_NO_TEXT = ("<url>", "<talkid>", "<keywords>")
_TAGS = re.compile(r"</?(?:title|description)>")
_SEGMENT = re.compile(r'<seg id="[0-9]*">\s*(.*?)\s*</seg>')


def prepare_iwslt14(
    folder: Path, downloads: Path = DOWNLOADS, url: str = URL, merges: int = MERGES
) -> Path:
    """Prepare the corpus under ``folder`` and return the folder that fairseq reads.

    Args:
        folder: receives train/valid/test.de/.en (tokenised, lower case), bpe.codes, a dictionary a
            language, and bin/.
        downloads: where the archive is, or is put.
        url: where it is fetched from.
        merges: BPE merges, joint for both languages.

    Raises:
        UserError: the archive cannot be fetched, or is not the corpus.
    """
    archive = downloads / "de-en.tgz"
    _obtain(archive, url)
    claim(folder, {"archive": str(archive.resolve()), "merges": merges})
    texts = [folder / f"{split}.{language}" for split in SPLITS for language in LANGUAGES]
    step(texts, lambda: _write_texts(archive, folder))
    step(
        [folder / "bpe.codes"],
        lambda: learn_joint_bpe(folder, LANGUAGES, merges, folder / "bpe.codes"),
    )
    bpe = load_bpe(folder / "bpe.codes")

    def units(split: str, language: str) -> Iterator[list[str]]:
        return (bpe.segment(line).split() for line in read_lines(folder / f"{split}.{language}"))

    return finish(folder, units, LANGUAGES, joined=False)


def learn_joint_bpe(folder: Path, languages: tuple[str, str], merges: int, codes: Path) -> None:
    """Learn merges from the training text of both languages under ``folder`` and write ``codes``."""
    words = Counter(
        word
        for language in languages
        for line in read_lines(folder / f"train.{language}")
        for word in line.split()
    )
    vocabulary = [f"{word} {count}" for word, count in sorted(words.items())]
    with (
        atomic_path(codes) as temporary,
        temporary.open("w", encoding="utf-8") as output,
    ):
        learn_bpe(vocabulary, output, merges, is_dict=True)


def _obtain(archive: Path, url: str) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(archive.with_name("checksums.json"))
    if not archive.is_file():
        print(f"fetching {url}")
        part = archive.with_name(f".{archive.name}.part")
        fetch(url, part)
        try:
            refuse_impostor(part)
            ledger.accept(archive.name, part)
        except UserError:
            part.unlink()  # it would be taken for the beginning of the file next time
            raise
        part.replace(archive)
    ledger.accept(archive.name, archive)


def _write_texts(archive: Path, folder: Path) -> None:
    """Tokenise, clean and split the archive's text."""
    tokenizers = {language: _tokenizer(language) for language in LANGUAGES}
    raw = _read_archive(archive)
    train = [
        [
            tokenizers[language](line)
            for line in tqdm(_training_lines(raw[language]["train"]), desc=f"tokenise {language}")
        ]
        for language in LANGUAGES
    ]
    if len(train[0]) != len(train[1]):
        raise UserError(
            f"{archive}: {len(train[0])} German and {len(train[1])} English lines; delete it"
        )
    pairs = [pair for pair in zip(*train, strict=True) if _is_clean(*pair)]
    splits = {
        "train": [pair for number, pair in enumerate(pairs, start=1) if number % VALID_EVERY],
        "valid": [pair for number, pair in enumerate(pairs, start=1) if number % VALID_EVERY == 0],
        "test": list(
            zip(
                *(
                    [
                        tokenizers[language](line.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
                        for name in TEST_SETS
                        for line in _SEGMENT.findall(raw[language][name])
                    ]
                    for language in LANGUAGES
                ),
                strict=True,
            )
        ),
    }
    for split, content in splits.items():
        for side, language in enumerate(LANGUAGES):
            with atomic_path(folder / f"{split}.{language}") as temporary:
                text = "".join(f"{pair[side].lower()}\n" for pair in content)
                temporary.write_text(text, encoding="utf-8")


def _read_archive(archive: Path) -> dict[str, dict[str, str]]:
    """The text of the files that are used, by language and by ``train`` or the test set's name."""
    wanted = {
        f"{stem}.{language}{end}": (language, name)
        for language in LANGUAGES
        for name, stem, end in [
            ("train", "train.tags.de-en", ""),
            *((name, f"IWSLT14.{name}.de-en", ".xml") for name in TEST_SETS),
        ]
    }
    found: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and (place := wanted.pop(Path(member.name).name, None)):
                    language, name = place
                    found[language][name] = tar.extractfile(member).read().decode("utf-8")
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error}); delete it and run again"
        ) from error
    if wanted:
        raise UserError(f"{archive} lacks {', '.join(sorted(wanted)[:3])}; it is not the corpus")
    return found


def _training_lines(text: str) -> list[str]:
    """The lines that are text, in their order, without the tags around titles and descriptions."""
    lines = text.removesuffix("\n").split("\n")
    return [_TAGS.sub("", line) for line in lines if not any(tag in line for tag in _NO_TEXT)]


def _is_clean(source: str, target: str) -> bool:
    """Whether Moses' clean-corpus-n.perl keeps the pair."""
    sizes = len(source.split()), len(target.split())
    return min(sizes) >= 1 and max(sizes) <= MAX_TOKENS and max(sizes) <= MAX_RATIO * min(sizes)


def _tokenizer(language: str) -> Callable[[str], str]:
    try:
        from sacremoses import MosesTokenizer
    except ImportError:
        raise UserError("sacremoses is not here; run `pip install sacremoses`") from None
    moses = MosesTokenizer(language)
    return lambda line: moses.tokenize(line, return_str=True)
