"""IWSLT14 and CNN / Daily Mail from small files of the same format, without the internet."""

import io
import tarfile

import pytest

from train_model.cli import UserError
from train_model.data.corpora import CORPORA, DISTILLED, cnndm, iwslt14
from train_model.data.dictionary import EOS, Dictionary
from train_model.data.transfer import NetworkError

pytest.importorskip("fairseq_cli", reason="fairseq is not installed")
pytestmark = pytest.mark.fairseq
TEST_SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def write_archive(path, train, tests):
    """A .tgz with the members of the real one; ``tests`` are the segments of every test set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for side, language in enumerate(("de", "en")):
            files = {f"train.tags.de-en.{language}": "".join(f"{pair[side]}\n" for pair in train)}
            for name in TEST_SETS:
                segments = [
                    f'<seg id="{number}"> {pair[side]} </seg>'
                    for number, pair in enumerate(tests, start=1)
                ]
                text = "<doc>\n" + "\n".join(segments) + "\n</doc>\n"
                files[f"IWSLT14.{name}.de-en.{language}.xml"] = text
            for name, text in files.items():
                member = tarfile.TarInfo(f"de-en/{name}")
                content = text.encode()
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def archive(tmp_path):
    """69 clean pairs, which leaves 3 for validation, among lines that are dropped."""
    train = [
        ("<url>http://a</url>", "<url>http://a</url>"),
        ("<title>Ein Wort</title>", "<title>A word</title>"),
    ]
    train += [
        (f"Satz Nummer {n}, nicht wahr?", f"Sentence number {n}, isn't it?") for n in range(68)
    ]
    train += [
        ("Ja .", "Yes , that is what I have said"),
        ("", "nothing"),
        ("wort " * 176, "word " * 176),
    ]
    path = tmp_path / "downloads" / "de-en.tgz"
    write_archive(path, train, [("Das ist\N{RIGHT SINGLE QUOTATION MARK}s .", "That & this")])
    return path


def prepare(archive, folder, **options):
    return iwslt14.prepare(folder, archive.parent, merges=20, **options)


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_text_is_tokenised_cleaned_and_split(archive, tmp_path):
    folder = tmp_path / "iwslt14"
    binary = prepare(archive, folder)
    assert len(lines(folder / "train.de")) == len(lines(folder / "train.en")) == 66
    assert lines(folder / "train.de")[:2] == ["ein wort", "satz nummer 0 , nicht wahr ?"]
    assert lines(folder / "train.en")[1] == "sentence number 0 , isn &apos;t it ?"
    assert lines(folder / "valid.de") == [f"satz nummer {n} , nicht wahr ?" for n in (21, 44, 67)]
    assert lines(folder / "test.de") == ["das ist &apos; s ."] * 5
    assert lines(folder / "test.en") == ["that &amp; this"] * 5
    assert not any("wort wort" in line for line in lines(folder / "train.de"))
    # fairseq reads the same sentences, each with the dictionary of its language
    from fairseq.data import indexed_dataset

    dictionary = Dictionary.load(binary / "dict.de.txt")
    assert dictionary.symbols != Dictionary.load(binary / "dict.en.txt").symbols
    data = indexed_dataset.make_dataset(str(binary / "train.de-en.de"), impl="mmap")
    assert len(data) == 66
    ids = data[1].tolist()
    assert ids[-1] == EOS
    units = " ".join(dictionary.symbols[index] for index in ids[:-1])
    assert units.replace("@@ ", "") == "satz nummer 0 , nicht wahr ?"


def test_a_run_continues_where_it_stopped(archive, tmp_path):
    folder = tmp_path / "iwslt14"
    binary = prepare(archive, folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    gone = binary / "valid.de-en.en.idx"
    gone.unlink()
    prepare(archive, folder)
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {gone, gone.with_suffix(".bin")}


def test_another_archive_than_the_first_is_refused(archive, tmp_path):
    prepare(archive, tmp_path / "iwslt14")
    write_archive(archive, [("a", "b")], [("c", "d")])
    with pytest.raises(UserError, match=r"is not the de-en\.tgz"):
        prepare(archive, tmp_path / "iwslt14")


def test_a_file_that_is_not_a_corpus_is_refused(tmp_path):
    archive = tmp_path / "downloads" / "de-en.tgz"
    archive.parent.mkdir()
    archive.write_bytes(b"\x1f\x8b no archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        prepare(archive, tmp_path / "iwslt14")
    assert not archive.with_name("checksums.json").exists()
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(UserError, match="lacks IWSLT14"):
        prepare(archive, tmp_path / "other")


def test_an_unavailable_archive_is_reported(tmp_path):
    with pytest.raises(NetworkError):
        prepare(
            tmp_path / "none" / "de-en.tgz", tmp_path / "iwslt14", url="http://127.0.0.1:9/x.tgz"
        )


def test_summaries_are_prepared_from_text(tmp_path):
    source = tmp_path / "text"
    with pytest.raises(UserError, match=r"train\.source"):
        cnndm.prepare(tmp_path / "cnndm", source)
    source.mkdir()
    for split in ("train", "valid", "test"):
        (source / f"{split}.source").write_text("a long article about words\n" * 4)
        (source / f"{split}.target").write_text("an article\n" * 4)
    binary = cnndm.prepare(tmp_path / "cnndm", source, merges=10)
    names = {path.name for path in binary.iterdir()}
    assert {"train.source-target.source.bin", "test.source-target.target.idx"} <= names
    dictionaries = [(binary / f"dict.{side}.txt").read_text() for side in ("source", "target")]
    assert dictionaries[0] == dictionaries[1]


def test_every_recipe_has_its_corpus():
    from train_model import recipe

    known = {*CORPORA, "en-de" + DISTILLED}
    assert {recipe.load(name).corpus for name in recipe.names()} <= known
