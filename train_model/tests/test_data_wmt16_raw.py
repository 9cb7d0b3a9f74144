"""Raw WMT16 from small archives of the same format, without the internet."""

import dataclasses
import io
import tarfile

import pytest

from train_model.cli import UserError
from train_model.data.corpora import wmt16_raw
from train_model.data.corpora.wmt16_raw import SOURCES
from train_model.data.dictionary import EOS, Dictionary
from train_model.data.transfer import NetworkError

pytest.importorskip("fairseq_cli", reason="fairseq is not installed")
pytest.importorskip("sacremoses", reason="sacremoses is not installed")
pytestmark = pytest.mark.fairseq

EUROPARL, CRAWL, NEWS, VALID, TEST = SOURCES
TEXT = {
    EUROPARL: [
        ("It's 5 o'clock, isn't it?", "Es ist 5 Uhr, nicht wahr?"),
        ("", "Leer."),
        ("One", "Eins zwei drei vier fünf sechs sieben acht neun zehn"),
        ("word " * 81, "Wort " * 81),
    ],
    CRAWL: [(f"Sentence {n} & more.", f"Satz {n} & mehr.") for n in range(1200)],
    NEWS: [("The end\N{NEXT LINE}of it.", "Das Ende davon.")],
    VALID: [("A valid sentence.", "Ein gültiger Satz."), ("", "")],
    TEST: [("A test.", "Ein Test."), ("Two tests.", "Zwei Tests.")],
}


def write_archive(path, source, pairs):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for side, name in enumerate(source.members):
            lines = [pair[side] for pair in pairs]
            if name.endswith(".sgm"):
                numbered = enumerate(lines, start=1)
                lines = ["<doc>", *(f'<seg id="{n}">{t}</seg>' for n, t in numbered), "</doc>"]
            content = "".join(f"{line}\n" for line in lines).encode()
            for folder in ("other/", "training/"):  # the second does not belong to the corpus
                member = tarfile.TarInfo(f"{folder}{name if folder != 'other/' else 'x' + name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def downloads(tmp_path):
    folder = tmp_path / "downloads"
    for source, pairs in TEXT.items():
        write_archive(folder / source.archive, source, pairs)
    return folder


def prepare(downloads, folder, **options):
    return wmt16_raw.prepare(folder, downloads, merges=30, processes=2, **options)


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_text_is_tokenised_cleaned_and_joined_in_order(downloads, tmp_path):
    folder = tmp_path / "wmt16-raw"
    binary = prepare(downloads, folder)
    english, german = lines(folder / "train.en"), lines(folder / "train.de")
    # the empty line, the ratio of 10 and the 81 words are gone
    assert len(english) == len(german) == 1 + 1200 + 1
    assert english[0] == "It &apos;s 5 o &apos;clock , isn &apos;t it ?"
    assert german[0] == "Es ist 5 Uhr , nicht wahr ?"
    assert english[1:3] == ["Sentence 0 &amp; more .", "Sentence 1 &amp; more ."]
    assert (english[-1], german[-1]) == ("The end of it .", "Das Ende davon .")
    # the test set is scored unchanged
    assert lines(folder / "valid.en") == ["A valid sentence .", ""]
    assert lines(folder / "test.de") == ["Ein Test .", "Zwei Tests ."]
    # fairseq reads the same sentences, with one dictionary
    from fairseq.data import indexed_dataset

    dictionary = Dictionary.load(binary / "dict.de.txt")
    assert dictionary.symbols == Dictionary.load(binary / "dict.en.txt").symbols
    data = indexed_dataset.make_dataset(str(binary / "train.en-de.de"), impl="mmap")
    assert len(data) == 1202
    ids = data[0].tolist()
    assert ids[-1] == EOS
    units = " ".join(dictionary.symbols[index] for index in ids[:-1])
    assert units.replace("@@ ", "") == german[0]


def test_a_run_continues_where_it_stopped(downloads, tmp_path, monkeypatch):
    folder = tmp_path / "wmt16-raw"
    prepare(downloads, folder)
    gone = [folder / "tokenised" / CRAWL.members[1], folder / "bin" / "valid.en-de.en.idx"]
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    for path in gone:
        path.unlink()
    prepare(downloads, folder)
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {*gone, gone[1].with_suffix(".bin")}


def test_another_archive_than_the_first_is_refused(downloads, tmp_path):
    prepare(downloads, tmp_path / "wmt16-raw")
    write_archive(downloads / NEWS.archive, NEWS, [("a", "b")])
    with pytest.raises(UserError, match=r"is not the train-training-parallel-nc-v11\.tgz"):
        prepare(downloads, tmp_path / "wmt16-raw")


def test_a_file_that_is_not_a_corpus_is_refused(downloads, tmp_path):
    (downloads / TEST.archive).write_bytes(b"\x1f\x8b no archive")
    with pytest.raises(UserError, match=r"test-full\.tgz cannot be unpacked"):
        prepare(downloads, tmp_path / "one")
    for path in downloads.glob("*.json"):
        path.unlink()
    write_archive(downloads / TEST.archive, VALID, TEXT[VALID])
    with pytest.raises(UserError, match="lacks newstest2014"):
        prepare(downloads, tmp_path / "two")
    for path in downloads.glob("*.json"):
        path.unlink()
    write_archive(downloads / TEST.archive, TEST, TEXT[TEST])
    with tarfile.open(downloads / NEWS.archive, "w:gz") as tar:
        for name, text in zip(NEWS.members, (b"one\ntwo\n", b"eins\n"), strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    with pytest.raises(UserError, match=r"have not equally many lines; delete .*nc-v11"):
        prepare(downloads, tmp_path / "three")
    assert not (tmp_path / "three" / "train.en").exists()


def test_an_unavailable_archive_is_reported(tmp_path):
    source = dataclasses.replace(NEWS, url="http://127.0.0.1:9/nc.tgz")
    with pytest.raises(NetworkError):
        wmt16_raw.prepare(tmp_path / "a", tmp_path / "b", (source,), processes=1)


def test_the_archives_have_names_of_their_own():
    assert len({source.archive for source in wmt16_raw.SOURCES}) == len(SOURCES)
    assert [source.split for source in SOURCES].count("train") == 3
