"""model.yaml: its content is read, and wrong content is refused in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from train_model import model_folder
from train_model.cli import UserError
from train_model.data.dictionary import Dictionary
from train_model.model_folder import check_name, find_model, model_name, read_folder
from train_model.models.checkpoint import load_checkpoint
from train_model.models.safetensors_file import save_safetensors
from train_model.tests.model_pieces import AR, NAT, write_pieces

ROOT = Path(__file__).parents[2]
GOOD = """\
architecture: conv_crf_transformer
checkpoint: checkpoint.pt
source_dictionary: dict.en.txt
target_dictionary: dict.de.txt
text:
  subwords: bpe
  codes: bpecodes
"""


@pytest.fixture
def folder(tmp_path):
    """Return a model's folder, ``mine``."""
    made = tmp_path / "models" / "mine"
    write_pieces(made)
    shutil.copy(NAT, made / "checkpoint.pt")
    (made / "model.yaml").write_text(GOOD)
    return made


def ask(*arguments):
    """Run the module's command line in a Python without packages."""
    command = [sys.executable, "-S", "-m", "train_model.model_folder", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_committed_models_are_what_their_descriptions_say():
    assert {"demo", "demo-ar", "wmt16", "wmt16-random"} <= set(model_folder.names())
    for name in ("demo", "demo-ar"):
        found = find_model(name)
        loaded = load_checkpoint(found.checkpoint)
        described = yaml.safe_load((found.folder / "model.yaml").read_text())
        assert (loaded.kind, loaded.config.padding_policy) == (
            described["architecture"],
            described["padding_policy"],
        )
        stored = torch.load(found.checkpoint, weights_only=False)["args"]
        assert stored.padding_policy == described["padding_policy"]
    assert find_model("demo-ar").src_dict == find_model("demo").src_dict


def test_a_path_is_a_model_with_a_name_of_its_own(folder, tmp_path):
    found = find_model(str(folder))
    assert found.checkpoint == folder / "checkpoint.pt"
    assert found.name.startswith("mine-")
    assert found.argument == str(folder)
    other = tmp_path / "other" / "mine"
    shutil.copytree(folder, other)
    assert find_model(str(other)).name != found.name
    assert model_name(str(ROOT / "data_model" / "demo")) == "demo"


def test_random_weights_are_made_once(tmp_path, monkeypatch):
    made = tmp_path / "random"
    made.mkdir()
    (made / "model.yaml").write_text(
        "architecture: conv_crf_transformer\nrandom_weights: 3\noptions:\n  src_vocab: 40\n"
        "  tgt_vocab: 40\n  encoder_embed_dim: 16\n  encoder_layers: 1\n  decoder_layers: 1\n"
        "  encoder_kernel_size_list: [3]\n  decoder_kernel_size_list: [3]\n"
    )
    first = find_model(str(made), tmp_path / "build").checkpoint
    content = first.read_bytes()
    assert find_model(str(made), tmp_path / "build").checkpoint == first
    assert first.read_bytes() == content
    assert load_checkpoint(first).config.src_vocab == 40
    text = (made / "model.yaml").read_text()
    (made / "model.yaml").write_text(text.replace("src_vocab: 40", "src_vocab: 44"))
    assert (
        load_checkpoint(find_model(str(made), tmp_path / "build").checkpoint).config.src_vocab == 44
    )
    (made / "model.yaml").write_text(text)
    find_model(str(made), tmp_path / "build")
    assert first.read_bytes() == content  # so what was made from it fits again


def test_safetensors_with_their_options(folder):
    loaded = load_checkpoint(NAT)
    (folder / "checkpoint.pt").unlink()
    save_safetensors(folder / "model.safetensors", loaded.model.state_dict())
    options = {k: v for k, v in vars(loaded.config.to_args()).items() if k != "arch"}
    text = GOOD.replace("checkpoint.pt", "model.safetensors")
    (folder / "model.yaml").write_text(text + yaml.safe_dump({"options": options}))
    again = load_checkpoint(find_model(str(folder)).checkpoint)
    assert again.config == loaded.config
    for key, value in loaded.model.state_dict().items():
        assert again.model.state_dict()[key].equal(value), key
    (folder / "model.yaml").write_text(text)
    with pytest.raises(UserError, match=r"has no options:, which model.safetensors needs"):
        load_checkpoint(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    (folder / "model.yaml").write_text(text + yaml.safe_dump({"options": options}))
    with pytest.raises(UserError, match="is damaged or not a safetensors file"):
        load_checkpoint(folder / "model.safetensors")


def test_a_sibling_may_have_the_dictionaries(folder):
    shutil.copytree(folder, folder.parent / "second")
    text = GOOD.replace("dict.en.txt", "../mine/dict.en.txt").replace(
        "codes: bpecodes", "codes: ../mine/bpecodes"
    )
    (folder.parent / "second" / "model.yaml").write_text(text)
    assert read_folder(folder.parent / "second").src_dict == folder / "dict.en.txt"


def test_a_dictionary_of_the_same_size_with_other_words_is_refused(folder):
    path = folder / "dict.en.txt"
    dictionaries = [Dictionary.load(folder / f"dict.{side}.txt").digest() for side in ("en", "de")]
    digests = yaml.safe_dump(
        {"dictionary_sha256": dict(zip(("source", "target"), dictionaries, strict=True))}
    )
    (folder / "model.yaml").write_text(GOOD + digests + "obtain: make again\n")
    find_model(str(folder))
    config = load_checkpoint(folder / "checkpoint.pt").config
    assert config.dictionaries == tuple(dictionaries)
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([second, first, *rest]) + "\n")
    with pytest.raises(
        UserError, match=r"dict.en.txt has other words than .*; get it again: make again"
    ):
        find_model(str(folder))
    counts = [f"{line.split(' ')[0]} 7" for line in (first, second, *rest)]
    path.write_bytes("\ufeff".encode() + "\r\n".join(counts).encode())  # the same words
    find_model(str(folder))


@pytest.mark.parametrize("text", ["{}", "{source: 1, target: 2}", "{source: x}", "[]", "null"])
def test_digests_of_another_form_are_refused(folder, text):
    (folder / "model.yaml").write_text(f"{GOOD}dictionary_sha256: {text}\n")
    with pytest.raises(UserError, match="dictionary_sha256"):
        find_model(str(folder))


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has to be a mapping"),
        ("- architecture", "it has to be a mapping"),
        ("architecture: [", "line 2 is not YAML of a model|is not YAML"),
        (f"{GOOD}{BOMB}", "it has an alias"),
        (GOOD + "architecture: transformer\n", "'architecture' comes twice"),
        (GOOD + "surprise: 1\n", "unknown key 'surprise'; there are: architecture, "),
        (GOOD + "summary: 2026-11-29\n", "summary is '2026-11-29'; it has to be text"),
        (GOOD.replace("conv_crf_transformer", "bert"), "architecture is 'bert'; this project runs"),
        (GOOD.replace("conv_crf_transformer", '"conv_crf_transformer"'), "without quotes"),
        (GOOD.replace("architecture: conv", "{architecture: conv"), "not YAML"),
        ("checkpoint: checkpoint.pt\n", "lacks architecture:"),
        (GOOD.replace("checkpoint.pt", "../../checkpoint.pt"), "leads out of"),
        (GOOD.replace("checkpoint.pt", "/etc/passwd"), "leads out of"),
        (GOOD.replace("dict.en.txt", "../../../dict.en.txt"), "leads out of"),
        (GOOD.replace("codes: bpecodes", "codes: /etc/passwd"), "leads out of"),
        (GOOD.replace("dict.en.txt", "dict.fr.txt"), "dict.fr.txt, which is missing; put it there"),
        (GOOD + "obtain: make x\n" + "test: {source: a, target: b}\n", "missing; get it: make x"),
        (GOOD + "test: {source: test.en}\n", "test: give source and target"),
        (GOOD.replace("subwords: bpe", "subwords: letters"), "text: subwords is 'letters'; choose"),
        (GOOD + "special_symbols: {bos: 0, pad: 1, eos: 2, unk: 9}\n", "networks here have"),
        (GOOD + "padding_policy: some\n", "padding_policy is one of upstream, masked"),
        (GOOD + "random_weights: 1\n", "random_weights needs options:"),
        (GOOD + "random_weights: true\n", "it has to be a whole number"),
        ("[" * 20000, "is not YAML of a model"),
        (GOOD + "#" * (1 << 16), "is larger than 65536 bytes"),
    ],
)
def test_descriptions_that_are_refused(text, message, folder):
    (folder / "model.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        find_model(str(folder))
    assert "model.yaml" in str(error.value)
    assert len(str(error.value)) < 1500


def test_another_architecture_than_the_checkpoints_is_refused(folder):
    described = (folder / "model.yaml").read_text()
    changed = described.replace("conv_crf_transformer", "transformer_multibranch_v2")
    (folder / "model.yaml").write_text(changed)
    with pytest.raises(UserError, match="is of conv_crf_transformer; mend that line"):
        load_checkpoint(folder / "checkpoint.pt")


def test_line_ends_and_a_mark_of_windows(folder):
    description = folder / "model.yaml"
    lines = description.read_text().splitlines()
    lines.sort(key=lambda line: not line.startswith("architecture"))  # the mark before a plain key
    before = find_model(str(folder))
    description.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert find_model(str(folder)) == before


def test_bytes_that_are_not_text_are_refused(folder):
    (folder / "model.yaml").write_bytes(b"architecture: \xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nope", "no model 'nope'; MODEL is "),
        ("", "no model ''; MODEL is "),
        ("..", ".. is not a model: no model.yaml; make one: make import CHECKPOINT="),
        ("no/where", "no/where is not a model: no such folder; make one: make import"),
        ("demo\nmore", "no model "),
    ],
)
def test_a_folder_that_is_not_a_model_is_refused(model, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        find_model(model)


def test_a_missing_checkpoint_says_where_to_get_it(folder):
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match=r"checkpoint.pt is missing; get it: make import"):
        find_model(str(folder))
    (folder / "model.yaml").write_text(GOOD + "obtain: make download\n")
    with pytest.raises(UserError, match=r"get it: make download; works without it: .*MODEL=demo"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["mine", "en-de", "a.b_c+1", "x" * 64])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", ".x", "a b", "ü", "x" * 65, "bench"])
def test_bad_names(name):
    with pytest.raises(UserError):
        check_name(name)


def test_the_makefiles_questions_need_no_package(folder):
    reply = ask("--make", folder)
    assert reply.returncode == 0, reply.stderr
    name, family, checkpoint, description, kind = reply.stdout.split()
    assert name == model_name(str(folder))
    assert (family, kind) == ("one-pass", "file")
    assert (checkpoint, description) == (f"{folder}/checkpoint.pt", f"{folder}/model.yaml")
    assert ask("--text", folder).returncode == 0
    refused = ask("--test", folder)
    assert refused.returncode == 2
    assert "has no test text" in refused.stderr
    (folder / "checkpoint.pt").unlink()
    assert "checkpoint.pt is missing" in ask("--checkpoint", folder).stderr
    assert "demo" in ask("--list").stdout.split()


def test_the_makefiles_question_is_answered_in_one_line(folder, tmp_path):
    shutil.copy(AR, folder / "checkpoint.pt")
    alias = "transformer_multibranch_v2_wmt_en_de"
    (folder / "model.yaml").write_text(GOOD.replace("conv_crf_transformer", alias))
    assert ask("--make", folder).stdout.split()[1] == "autoregressive"
    odd = tmp_path / "with space"
    shutil.copytree(folder, odd)
    endless = shutil.copytree(folder, tmp_path / "endless")
    (endless / "model.yaml").write_text(f"{GOOD}random_weights: {'9' * 5000}\n")
    assert ask("--make", endless).stdout.split()[4] == "random"  # its reader says what is wrong
    for reply in (ask("--make", odd), ask("--make", "nope"), ask("--make", tmp_path)):
        assert reply.returncode == 2
        assert len(reply.stderr.splitlines()) == 1
        assert reply.stderr.startswith("error: ")


def test_test_text_may_be_that_of_a_corpus(tmp_path, monkeypatch):
    """It is not committed with the model, which works without it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("dict.txt", "codes"):
        (folder / name).write_text("a 1\n")
    (folder / "model.yaml").write_text(
        "architecture: conv_crf_transformer\nsource_language: en\ntarget_language: de\n"
        "source_dictionary: dict.txt\ntext: {codes: codes}\ntest: {corpus: some-corpus}\n"
    )
    model = read_folder(folder)
    assert model.require_text() is model
    with pytest.raises(
        UserError, match=r"test.en, which is missing; run `make corpus CORPUS=some-"
    ):
        model.require_test()
    corpus = tmp_path / "build" / "data" / "some-corpus"
    corpus.mkdir(parents=True)
    for language in ("en", "de"):
        (corpus / f"test.{language}").write_text("x\n")
    assert model.require_test().test_tgt.read_text() == "x\n"
