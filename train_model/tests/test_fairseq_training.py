"""A whole training through fairseq on a small corpus: start, go on, convert, refuse."""

import shutil
import subprocess
import sys

import pytest
import torch

from train_model import fairseq_compat, recipe, train
from train_model.cli import UserError
from train_model.data.binary import check_binary
from train_model.data.corpora import prepare
from train_model.data.dictionary import EOS, Dictionary
from train_model.data.text import TextOptions
from train_model.data.tokenizer import Tokenizer
from train_model.models.checkpoint import load_checkpoint
from train_model.tests.small_training import SMALL

pytestmark = pytest.mark.fairseq


def test_binary_corpus_is_what_fairseq_reads(build_dir):
    data = prepare("demo", build_dir)
    fairseq_compat.prepare()
    from fairseq.data import Dictionary as FairseqDictionary
    from fairseq.data import indexed_dataset

    ours = Dictionary.load(data / "dict.en.txt")
    theirs = FairseqDictionary.load(str(data / "dict.en.txt"))
    assert theirs.symbols == ours.symbols
    tokenizer = Tokenizer(TextOptions(codes=data.parent / "bpe.codes"), ours, ours)
    for split in ("train", "test"):
        for language in ("en", "de"):
            rows = indexed_dataset.make_dataset(str(data / f"{split}.en-de.{language}"), "mmap")
            lines = (data.parent / f"{split}.{language}").read_text(encoding="utf-8").splitlines()
            assert len(rows) == len(lines)
            for row, line in zip(rows, lines, strict=True):
                assert row.tolist() == tokenizer.encode(line)[1:]
                assert row[-1] == EOS
                assert theirs.string(row, "@@ ") == line


def test_a_prepared_corpus_is_left_alone_and_a_stopped_one_completed(build_dir):
    data = prepare("demo", build_dir)
    files = sorted(path for path in data.parent.rglob("*") if path.is_file())
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    gone = data / "valid.en-de.de.idx"
    gone.unlink()
    prepare("demo", build_dir)
    assert gone.read_bytes() == before[gone][1]
    for path, (time, _) in before.items():
        if not path.name.startswith("valid.en-de.de"):
            assert path.stat().st_mtime_ns == time, path
    assert sorted(path for path in data.parent.rglob("*") if path.is_file()) == files


def write(position, data):
    """Damage a file: these bytes at this position."""

    def damage(path):
        content = bytearray(path.read_bytes())
        content[position : position + len(data)] = data
        path.write_bytes(content)

    return damage


def cut(length):
    """Damage a file: the first bytes only."""
    return lambda path: path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("train.en-de.en.idx", cut(0), "requires a buffer"),
        ("train.en-de.en.idx", cut(30), "is not as long as"),
        ("train.en-de.en.idx", write(0, b"X"), "is not an index"),
        ("train.en-de.en.idx", write(18, b"\xff" * 8), "is not as long as"),
        ("train.en-de.en.idx", write(26, b"\xff" * 4), "do not follow each other"),
        ("train.en-de.de.bin", cut(0), "does not have the"),
        ("train.en-de.de.bin", write(0, b"\xff\xff"), "ids that are not in the dictionary"),
        ("valid.en-de.de.bin", lambda path: path.unlink(), "No such file"),
        ("dict.en.txt", lambda path: path.write_text("a 1\n"), "ids that are not in the"),
    ],
)
def test_a_damaged_corpus_is_refused(build_dir, tmp_path, name, damage, reason):
    binary = tmp_path / "bin"
    shutil.copytree(prepare("demo", build_dir), binary)
    check_binary(binary)
    damage(binary / name)
    with pytest.raises(UserError, match=rf"{reason}.*delete .*bin and run it again"):
        check_binary(binary)


def test_sides_of_a_corpus_with_different_numbers_of_lines(build_dir, tmp_path):
    binary = tmp_path / "bin"
    shutil.copytree(prepare("demo", build_dir), binary)
    for end in ("bin", "idx"):
        shutil.copy(binary / f"valid.en-de.de.{end}", binary / f"train.en-de.de.{end}")
    with pytest.raises(UserError, match=r"train\.en-de\.en\.idx has .* lines and its other"):
        check_binary(binary)


def test_training_starts_continues_and_leaves_a_checkpoint(build_dir, capsys):
    first = train.train(recipe.load("demo", [*SMALL, "max_update=3"]), build_dir)
    shown = capsys.readouterr().out
    assert "device:" in shown
    assert "from the start" in shown
    weights = load_checkpoint(first).model.state_dict()
    train.train(recipe.load("demo", [*SMALL, "max_update=30"]), build_dir)
    shown = capsys.readouterr().out
    assert "going on from" in shown
    assert "s an update; the remaining" in shown
    loaded = load_checkpoint(first)
    assert loaded.config.padding_policy == "masked"
    assert loaded.config.left_pad_source is False
    assert loaded.config.pred_length_offset is True
    after = loaded.model.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in weights.items())
    trained = load_checkpoint(build_dir / "demo" / "train" / "checkpoint_best.pt")
    for name, value in trained.model.state_dict().items():
        assert torch.equal(after[name], value)
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    state = load_checkpoint_to_cpu(str(build_dir / "demo" / "train" / "checkpoint_last.pt"))
    assert [entry["num_updates"] for entry in state["optimizer_history"]] == [3, 30]


def test_another_network_in_the_folder_is_reported(build_dir):
    other = [*SMALL, "max_update=40", "encoder_ffn_embed_dim=24"]
    before = (build_dir / "demo" / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError, match="holds a training of another network"):
        train.train(recipe.load("demo", other), build_dir)
    assert (build_dir / "demo" / "checkpoint.pt").read_bytes() == before


def test_a_damaged_last_checkpoint_is_reported(build_dir):
    last = build_dir / "demo" / "train" / "checkpoint_last.pt"
    whole = last.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no checkpoint at all"):
        last.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint_last\.pt is damaged .* remove it"):
            train.train(recipe.load("demo", [*SMALL, "max_update=40"]), build_dir)
    last.write_bytes(whole)


# A limit on the size of files makes writes fail as a full disk does; the output goes through pipes.
WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from train_model import train
from train_model.cli import run
train.prepare = lambda corpus, build_dir: Path(sys.argv[1])  # it is there
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sets = [word for option in sys.argv[3:] for word in ("--set", option)]
run(lambda: train.main(["--build-dir", sys.argv[2], *sets]))
"""


def test_a_checkpoint_without_disk_space_is_reported_in_one_line(build_dir, tmp_path):
    data = prepare("demo", build_dir)
    program = [sys.executable, "-W", "ignore", "-c", WITHOUT_ROOM]
    command = [*program, data, tmp_path, *SMALL, "max_update=3"]
    reply = subprocess.run(command, capture_output=True, text=True)
    assert reply.returncode == 2
    reason = (
        f"error: cannot write a checkpoint into {tmp_path}/demo/train; is there room on its disk?"
    )
    assert [line for line in reply.stderr.splitlines() if "rror" in line] == [reason]
    assert "Traceback" not in reply.stdout + reply.stderr
    assert not (tmp_path / "demo" / "checkpoint.pt").exists()


def test_flags_that_fairseq_does_not_know_are_refused_before_the_corpus_is_made(tmp_path):
    with pytest.raises(UserError, match="unrecognized arguments: --no-such-flag"):
        train.train(recipe.load("demo", [*SMALL, "no_such_flag=1"]), tmp_path)
    with pytest.raises(UserError, match="--max-update: invalid"):
        train.train(recipe.load("demo", [*SMALL, "max_update=many"]), tmp_path)
    for flag in ("lr=-1", "lr=[1e400]", "log_interval=0", "batch_size=-5", "update_freq=0"):
        with pytest.raises(UserError, match="give a number above 0 in the recipe or by --set"):
            train.train(recipe.load("demo", [*SMALL, flag]), tmp_path)
    with pytest.raises(UserError, match="so the training would never end"):
        train.train(recipe.load("demo", [*SMALL, "max_update=0"]), tmp_path)
    with pytest.raises(UserError, match="num_workers is 100000; it is at most 256"):
        train.train(recipe.load("demo", [*SMALL, "num_workers=100000"]), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("dropout=7", "dropout is a share from 0 to 1, not 7.0"),
        ("decoder_embed_dim=8", "encoder_embed_dim and decoder_embed_dim must be equal"),
        ("max_tokens=1", "The dataset is empty"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(build_dir, tmp_path, flag, message):
    prepare("demo", build_dir)
    (tmp_path / "data").symlink_to(build_dir / "data")
    with pytest.raises(UserError, match=f"flags of the recipe or of --set do not fit: {message}"):
        train.train(recipe.load("demo", [*SMALL, flag]), tmp_path)


def test_glancing_trains_through_the_same_command(build_dir, tmp_path, capsys):
    (tmp_path / "data").symlink_to(build_dir / "data")
    glancing = [
        *SMALL,
        "criterion=glat_loss",
        "glancing_updates=4",
        "max_update=4",
        "log_interval=1",
    ]
    checkpoint = train.train(recipe.load("demo", glancing), tmp_path)
    assert load_checkpoint(checkpoint).kind == "conv_crf_transformer"


def test_translation_lev_itself_takes_the_network(build_dir, tmp_path):
    (tmp_path / "data").symlink_to(build_dir / "data")
    plain = [*SMALL, "task=translation_lev", "max_update=2", "best_checkpoint_metric=loss"]
    plain += ["maximize_best_checkpoint_metric=false"]
    checkpoint = train.train(recipe.load("demo", plain), tmp_path)
    assert load_checkpoint(checkpoint).kind == "conv_crf_transformer"


def test_recorded_steps_update_as_fairseq_does(build_dir, tmp_path, monkeypatch):
    prepare("demo", build_dir)
    fairseq_compat.prepare()
    from train_model.fairseq_plugin import graphed_steps

    steps = graphed_steps.GraphedSteps
    kinds = {
        "fairseq": lambda trainer: trainer.train_step,
        "ours": lambda t: steps(t, capture=False),
    }
    monkeypatch.setattr(train, "ON_GPU", ())  # BF16 on this CPU too, for the masters
    graphed = ["cuda_graphs=true", "keep_batches=true", "bf16=true", "optimizer=fused_adam"]
    graphed += ["batch_size=null", "max_tokens=128", "data_buffer_size=0", "max_update=3"]
    graphed += ["disable_validation=true"]
    weights = []
    for name, kind in kinds.items():
        monkeypatch.setattr(graphed_steps, "GraphedSteps", kind)
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(build_dir / "data")
        chosen = recipe.load("demo", [*SMALL, *graphed, "criterion=glat_loss", "dropout=0.1"])
        weights.append(load_checkpoint(train.train(chosen, tmp_path / name)).model.state_dict())
    ours, theirs = weights
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-3)


def test_recorded_steps_refuse_what_they_cannot_do(build_dir, tmp_path, monkeypatch):
    prepare("demo", build_dir)
    monkeypatch.setattr(train, "ON_GPU", ())
    (tmp_path / "data").symlink_to(build_dir / "data")
    with pytest.raises(UserError, match="cuda_graphs needs bf16: true, keep_batches: true"):
        train.train(recipe.load("demo", [*SMALL, "cuda_graphs=true"]), tmp_path)
