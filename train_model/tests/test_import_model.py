"""A model folder is made from every form of fairseq's files, complete or not at all."""

import argparse
import dataclasses
import gzip
import io
import shutil
import tarfile

import pytest
import torch
import yaml

from train_model import import_model, model_folder, model_pieces
from train_model.cli import UserError
from train_model.data.dictionary import Dictionary
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import read_folder
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.fairseq_file import read_checkpoint
from train_model.tests.model_pieces import AR, FIXTURES, NAT, data_bin, hub_archive, write_pieces


def run(folder, *arguments, name="mine"):
    import_model.main([*map(str, arguments), "--name", name, "--models", str(folder)])
    return read_folder(folder / name)


def options(pieces, *names):
    return [part for name in names or pieces for part in (f"--{name}", pieces[name])]


@pytest.fixture
def pieces(tmp_path):
    return write_pieces(tmp_path / "pieces")


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


def nothing_was_made(models):
    return not models.exists() or not [*models.iterdir()]


def test_separate_files(models, pieces, capsys):
    found = run(models, "--checkpoint", NAT, *options(pieces), "--licence", "MIT")
    assert (found.architecture, found.family) == ("conv_crf_transformer", "one-pass")
    assert [path.name for path in models.iterdir()] == ["mine"]
    tokenizer = Tokenizer.from_files(found)
    assert tokenizer.source_units("ab c") == ["ab", "c"]
    original, copy = load_checkpoint(NAT), load_checkpoint(found.checkpoint)
    digests = tuple(Dictionary.load(path).digest() for path in (found.src_dict, found.tgt_dict))
    assert copy.config == dataclasses.replace(original.config, dictionaries=digests)
    for key, value in original.model.state_dict().items():
        assert copy.model.state_dict()[key].equal(value), key
    assert "make translate MODEL=" in capsys.readouterr().out
    assert found.test_src.read_text() == pieces["test-src"].read_text()


def test_a_hub_archive_as_it_is(models, tmp_path):
    archive = hub_archive(tmp_path)
    found = run(models, "--from", archive)
    assert (found.architecture, found.languages) == ("transformer_multibranch_v2", ("en", "de"))
    assert found.text.codes.name == "bpecodes"
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    same = run(models, "--from", tmp_path / "small.en-de", name="unpacked")
    assert same.src_dict.read_bytes() == found.src_dict.read_bytes() != found.tgt_dict.read_bytes()


def test_a_data_bin_folder_and_a_checkpoint(models, tmp_path, pieces):
    folder = data_bin(tmp_path)
    found = run(models, "--from", folder, "--checkpoint", NAT, *options(pieces, "codes"))
    assert found.languages == ("en", "de")
    assert found.test_src is None
    assert Dictionary.load(found.src_dict).symbols == Dictionary.load(pieces["src-dict"]).symbols


def test_a_checkpoint_is_read_once(models, tmp_path, monkeypatch):
    """Its options name the languages and the tokenisation too."""
    read = []

    def counted(path):
        read.append(path.name)
        return load_checkpoint(path)

    with tarfile.open(hub_archive(tmp_path)) as packed:
        packed.extractall(tmp_path, filter="data")
    folder = (tmp_path / "small.en-de").rename(tmp_path / "small")
    monkeypatch.setattr(import_model, "load_checkpoint", counted)
    assert run(models, "--from", folder).languages == ("en", "de")
    assert read == ["model.pt", "checkpoint.pt"]  # the second is the copy, which is tried


def test_pieces_of_another_model(models, pieces):
    run(models, "--checkpoint", NAT, *options(pieces), "--languages", "en-de", name="first")
    like = models / "first"
    (like / "valid.en").write_text("ab ac\n")  # make ptq calibrates with this text
    found = run(models, "--checkpoint", AR, "--like", like, name="second")
    assert found.autoregressive
    assert (found.folder / "valid.en").read_text() == "ab ac\n"
    (like / "valid.en").unlink()
    third = run(models, "--checkpoint", AR, "--like", like, name="third")
    assert not (third.folder / "valid.en").exists()
    assert found.languages == ("en", "de")
    assert found.text.codes == models / "second" / "bpecodes"


def test_without_dictionaries_the_model_has_no_text(models):
    found = run(models, "--checkpoint", NAT)
    assert found.text is None
    with pytest.raises(UserError, match=r"mine has no text processing .*make import CHECKPOINT="):
        found.require_text()


def test_like_a_model_whose_corpus_is_not_prepared(models, pieces):
    first = run(models, "--checkpoint", AR, *options(pieces), name="first")
    description = first.folder / "model.yaml"
    content = yaml.safe_load(description.read_text()) | {"test": {"corpus": "not-prepared"}}
    description.write_text(yaml.safe_dump(content))
    second = run(models, "--checkpoint", AR, "--like", models / "first", name="second")
    assert (second.text is None, second.test_src) == (False, None)


def test_one_dictionary_for_both_sides_is_kept_once(models, pieces):
    found = run(models, "--checkpoint", NAT, *options(pieces, "src-dict", "codes"))
    assert found.src_dict == found.tgt_dict == models / "mine" / "dict.txt"


def test_text_that_is_already_in_units(models, pieces):
    found = run(models, "--checkpoint", NAT, *options(pieces, "src-dict", "tgt-dict"))
    assert found.text.subwords == "none"
    assert Tokenizer.from_files(found).source_units("ab q@@ c") == ["ab", "q@@", "c"]


def test_merges_of_fastbpe_lose_their_counts(models, pieces):
    lines = pieces["codes"].read_text().splitlines()[1:]
    pieces["codes"].write_text("".join(f"{line} 7\n" for line in lines))
    found = run(models, "--checkpoint", NAT, *options(pieces, "src-dict", "tgt-dict", "codes"))
    assert Tokenizer.from_files(found).source_units("ab c") == ["ab", "c"]


def with_words(path, *words):
    """Replace the first words of a dictionary, whose size the network's embedding gives."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*(f"{word} 9\n" for word in words), *lines[len(words) :]]))


ESCAPES = ("&quot;", "&apos;s")


@pytest.mark.parametrize(
    ("words", "flags", "expected", "said"),
    [
        ((), [], (False, False, True), "no tokenisation (neither the checkpoint nor a dictionary"),
        (ESCAPES, [], (True, False, True), "Moses' tokenisation (a dictionary has &quot;)"),
        (
            (*ESCAPES, "@-@"),
            [],
            (True, True, True),
            "Moses' tokenisation with -a (a dictionary has &quot; and @-@)",
        ),
        (("@-@",), [], (True, True, True), "with -a (a dictionary has @-@)"),
        (("##AT##-##AT##",), [], (True, True, True), "with -a (a dictionary has ##AT##-##AT##)"),
        (
            ("@-@", '"'),
            [],
            (True, True, False),
            """with -a with -no-escape (a dictionary has @-@ and ")""",
        ),
        (("&quot;",), [], (False, False, True), "no tokenisation"),
        (("&amp;", "&apos;"), [], (False, False, True), "no tokenisation"),
        (
            (*ESCAPES, "@-@"),
            ["--no-moses"],
            (False, False, True),
            "no tokenisation (as asked; a dictionary has &quot; and @-@)",
        ),
        (
            (*ESCAPES, "@-@"),
            ["--no-aggressive-dashes"],
            (True, False, True),
            "Moses' tokenisation (",
        ),
        ((), ["--moses"], (True, False, True), "Moses' tokenisation (as asked)"),
        ((), ["--moses", "--no-escape"], (True, False, False), "with -no-escape (as asked)"),
    ],
)
def test_moses_is_recognised_by_the_dictionaries(
    models, pieces, capsys, words, flags, expected, said
):
    with_words(pieces["tgt-dict"], *words)
    text = run(models, "--checkpoint", NAT, *options(pieces), *flags).text
    assert (text.moses, text.aggressive_dashes, text.escape) == expected
    (line,) = (s for s in capsys.readouterr().out.splitlines() if s.startswith("text: "))
    assert said in line
    assert "others: --[no-]moses" in line


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"tokenizer": "moses"}, (True, True, True)),
        ({"tokenizer": "moses", "moses_no_dash_splits": True}, (True, False, True)),
        ({"tokenizer": "moses", "moses_no_escape": True}, (True, True, False)),
        ({"tokenizer": "space"}, (False, False, True)),
        ({"tokenizer": None}, (False, False, True)),
    ],
)
@pytest.mark.parametrize("form", ["args", "cfg"])
def test_moses_is_recognised_by_the_checkpoints_options(
    models, pieces, tmp_path, capsys, recorded, expected, form
):
    original = read_checkpoint(NAT)
    stored = {"model": original.weights}
    if form == "args":
        stored["args"] = argparse.Namespace(**vars(original.options) | recorded)
    else:
        own = {name: value for name, value in recorded.items() if name != "tokenizer"}
        named = {"_name": recorded["tokenizer"]} | own if recorded["tokenizer"] else None
        stored["cfg"] = {"model": vars(original.options), "tokenizer": named}
    checkpoint = tmp_path / "recorded.pt"
    torch.save(stored, checkpoint)
    text = run(models, "--checkpoint", checkpoint, *options(pieces)).text
    assert (text.moses, text.aggressive_dashes, text.escape) == expected
    assert ("(the checkpoint's options name it)" in capsys.readouterr().out) == expected[0]


def test_the_copy_of_what_was_made_from_another_model_is_a_model_of_its_own(models, tmp_path):
    """Such as a quantised checkpoint, which has to fit the model that it was made from, and no other."""
    loaded, made = load_checkpoint(NAT), tmp_path / "made.pt"
    save_checkpoint(made, loaded.model, dataclasses.replace(loaded.config, made_from=["0" * 64]))
    found = run(models, "--checkpoint", made)
    assert load_checkpoint(found.checkpoint).config == loaded.config


def test_the_padding_policy_can_be_chosen(models):
    found = run(models, "--checkpoint", NAT, "--padding-policy", "masked")
    assert load_checkpoint(found.checkpoint).config.padding_policy == "masked"
    description = found.folder / "model.yaml"
    text = description.read_text()
    description.write_text(text.replace("padding_policy: masked", "padding_policy: upstream"))
    assert load_checkpoint(found.checkpoint).config.padding_policy == "upstream"


def test_sentencepiece(models, pieces, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text"
    words = [a + b for a in "abcdefghij" for b in "klmnopqrst"]
    text.write_text("\n".join(" ".join(words[i : i + 7]) for i in range(90)) + "\n")
    prefix = tmp_path / "spm"
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(prefix), vocab_size=100, minloglevel=2
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    units = [processor.id_to_piece(i) for i in range(3, 100)]
    path = tmp_path / "dict.spm.txt"
    fill = 200 - 4 - len(units)
    Dictionary([*((u, 9) for u in units), *((f"madeupword{i:04d}", 0) for i in range(fill))]).save(
        path
    )
    files = ["--src-dict", path, "--codes", f"{prefix}.model"]
    found = run(models, "--checkpoint", NAT, *files)
    assert found.text.subwords == "sentencepiece"
    assert Tokenizer.from_files(found).source_units("ak bl") == processor.encode_as_pieces("ak bl")
    with pytest.raises(UserError, match=r"spm.model does not belong to .*dict.en.txt: "):
        run(models, "--checkpoint", NAT, "--src-dict", pieces["src-dict"], *files[2:], name="other")


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--name", "a/b"], "'a/b' cannot name a model"),
        (None, ["--name", "../mine"], "cannot name a model"),
        (None, ["--name", ""], "--name is empty; give a value or leave it out"),
        (None, ["--name", "plugins"], "build/plugins is the folder of something else"),
        (None, ["--name", "demo-ptq"], "build/demo-ptq is the folder of something else"),
        (None, ["--truecase-model", FIXTURES / "README.md"], "is for --case truecase; add it"),
        (None, ["--subwords", "none"], "--subwords none has none; leave one out"),
        (None, ["--no-moses", "--escape"], "are for Moses' tokenisation"),
        (None, ["--checkpoint", "/nowhere.pt"], "there is no checkpoint /nowhere.pt"),
        (None, ["--checkpoint", FIXTURES / "README.md"], "damaged or no checkpoint"),
        (None, ["--src-dict", "/nowhere"], "no dictionary at /nowhere"),
        (None, ["--codes", "/nowhere"], "no file /nowhere|no BPE codes at /nowhere"),
        (None, ["--test-src", "/nowhere"], "/nowhere"),
        (None, ["--languages", "english"], "is not SOURCE-TARGET, such as en-de"),
        (None, ["--from", "/nowhere"], "there is no /nowhere"),
        ("short dictionary", [], r"has 199 symbols and .* 200 in its target embedding"),
        ("other codes", [], "bpecodes does not belong to .*: 0 of 144 units come from it"),
        ("text of another language", [], "lacks 2 of the 2 units of the test text"),
        ("one line less", [], "has more lines than"),
        ("blank text", [], "test.en has no text"),
        ("gzip", [], "is compressed by gzip; unpack it with gunzip"),
        (None, ["--languages", "de-en"], "its name says en; are the dictionaries swapped"),
        (None, ["--languages", "de-en", "--checkpoint", AR], "was trained from en to de"),
        ("swapped texts", ["--languages", "en-de"], "says de; are the test texts swapped"),
        (None, ["--from", FIXTURES / "README.md"], "README.md is neither a folder nor one of"),
        ("NaN", [], "infinite or not numbers"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    change, arguments, message, models, pieces, tmp_path
):
    checkpoint = NAT
    if change == "short dictionary":
        path = pieces["tgt-dict"]
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    elif change == "other codes":
        pieces["codes"].write_text("#version: 0.2\nx y\nxy z</w>\n")
    elif change == "text of another language":
        pieces["test-src"].write_text("ж щ\nы\n")
    elif change == "swapped texts":
        pieces["test-src"], pieces["test-tgt"] = pieces["test-tgt"], pieces["test-src"]
    elif change == "one line less":
        pieces["test-tgt"].write_text("a\n")
    elif change == "blank text":
        pieces["test-src"].write_text(" \n\n")
        pieces["test-tgt"].write_text(" \n\n")
    elif change == "gzip":
        checkpoint = tmp_path / "packed.pt"
        checkpoint.write_bytes(gzip.compress(NAT.read_bytes()))
    elif change == "NaN":
        content = torch.load(NAT, weights_only=False)
        content["model"]["decoder.embed_length.weight"][0, 0] = torch.nan
        checkpoint = tmp_path / "nan.pt"
        torch.save(content, checkpoint)
    given = ["--checkpoint", checkpoint, *options(pieces), "--name", "mine", *arguments]
    with pytest.raises(UserError, match=message) as error:
        import_model.main([*map(str, given), "--models", str(models)])
    assert "\n" not in str(error.value)
    assert nothing_was_made(models)


def test_pieces_of_two_models(models, pieces, tmp_path):
    """Dictionaries of other sizes, and swapped ones."""
    wide = tmp_path / "dict.wide.txt"
    Dictionary((f"w{i}", 1) for i in range(300)).save(wide)
    with pytest.raises(
        UserError, match=r"has 304 symbols and .* 200 in its source embedding; give"
    ):
        run(models, "--checkpoint", NAT, "--src-dict", wide, "--tgt-dict", pieces["tgt-dict"])
    assert nothing_was_made(models)


def test_a_folder_without_a_checkpoint_and_an_archive_are_named(models, tmp_path, pieces):
    with pytest.raises(UserError, match=r"pieces has no checkpoint; give one with --checkpoint"):
        run(models, "--from", tmp_path / "pieces", "--languages", "en-de")
    archive = hub_archive(tmp_path, NAT).rename(tmp_path / "small.tar.gz")
    with pytest.raises(UserError, match=r"/small\.tar\.gz does not say which of de, en is"):
        run(models, "--from", archive)


def test_an_existing_folder_is_not_touched(models):
    (models / "mine").mkdir(parents=True)
    (models / "mine" / "file").write_text("kept")
    with pytest.raises(UserError, match="mine exists already; remove it, or give another name"):
        run(models, "--checkpoint", NAT)
    assert [path.name for path in (models / "mine").iterdir()] == ["file"]


def test_a_folder_that_does_not_say_its_languages(models, tmp_path, pieces):
    folder = tmp_path / "pieces"
    shutil.copy(NAT, folder / "model.pt")
    with pytest.raises(UserError, match="which of de, en is the source; give --languages"):
        run(models, "--from", folder)
    with pytest.raises(UserError, match=r"has no dict.fr.txt; it has dictionaries of de, en"):
        run(models, "--from", folder, "--languages", "fr-de")
    found = run(models, "--from", folder, "--languages", "de-en")
    assert found.src_dict.read_bytes() == pieces["tgt-dict"].read_bytes()


def packed(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_paths_and_links_in_an_archive_lead_nowhere(models, tmp_path):
    archive = hub_archive(tmp_path)
    hostile = tmp_path / "hostile.tar.gz"
    with tarfile.open(archive) as good, tarfile.open(hostile, "w:gz") as bad:
        for member in good:
            content = good.extractfile(member) if member.isfile() else None
            member.name = "../../" + member.name.rpartition("/")[2]
            bad.addfile(member, content)
        link = tarfile.TarInfo("checkpoint_best.pt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        bad.addfile(link)
    found = run(models, "--from", hostile)
    assert found.languages == ("en", "de")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hostile.tar.gz",
        "models",
        "pieces",
        "small.en-de.tar.gz",
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a/model.pt", b"x"), ("b/model.pt", b"y")], "has two files model.pt"),
        ([("README", b"nothing here")], "some.tar.gz has no checkpoint; give one"),
        (None, "is a damaged archive|file could not be opened"),
    ],
)
def test_archives_that_are_not_a_model_are_refused(members, message, models, tmp_path):
    archive = tmp_path / "some.tar.gz"
    if members is None:
        archive.write_bytes(b"\x1f\x8bnot an archive")
    else:
        packed(archive, members)
    with pytest.raises(UserError, match=message):
        run(models, "--from", archive)
    assert nothing_was_made(models)


def test_an_archive_without_end_is_refused(models, tmp_path, monkeypatch):
    monkeypatch.setattr(model_pieces, "MAX_UNPACKED", 10)
    with pytest.raises(UserError, match="is larger than a model"):
        run(models, "--from", packed(tmp_path / "a.tar.gz", [("model.pt", b"x" * 11)]))
    monkeypatch.setattr(model_pieces, "MAX_MEMBERS", 2)
    members = [(f"file{i}", b"") for i in range(3)]
    with pytest.raises(UserError, match="has more than 2 files"):
        run(models, "--from", packed(tmp_path / "b.tar.gz", members))


def test_the_default_name_is_that_of_the_archive(models, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "DATA", models)
    import_model.main(["--from", str(hub_archive(tmp_path)), "--models", str(models)])
    assert model_folder.names() == ["small.en-de"]
