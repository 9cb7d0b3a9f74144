"""The distilled corpus has the teacher's translations as targets; the rest of it is unchanged."""

import functools
import json
import shutil

import pytest
import torch

from train_model import train
from train_model.cli import UserError
from train_model.data.binary import write_binary
from train_model.data.corpora import CORPORA, Corpus, demo, prepare
from train_model.data.filtering import PairFilter, repeats
from train_model.models.beam_search import beam_search
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import IncrementalDecoder
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from train_model.tests.networks import step_by_step

pytest.importorskip("fairseq_cli", reason="fairseq is not installed")
pytestmark = pytest.mark.fairseq
OPTIONS = SearchOptions(beam=2, max_len_b=12, len_penalty=0.6)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A build folder with a demo corpus of 30 pairs, and a teacher with random weights."""
    build = tmp_path_factory.mktemp("build")
    demo.prepare(build / "data" / "demo", {"train": 30, "valid": 5, "test": 5}, merges=40)
    symbols = sum(1 for _ in (build / "data/demo/dict.en.txt").open()) + 4
    torch.manual_seed(2)
    sizes = {"src_vocab": symbols, "tgt_vocab": symbols, "encoder_layers": 1, "decoder_layers": 1}
    config = step_by_step(16, **sizes, max_source_positions=1024, max_target_positions=1024)
    model = TransformerMultibranch(config)
    torch.nn.init.normal_(model.decoder.embed_out, std=1.0)
    save_checkpoint(build / "teacher.pt", model, config)
    return build


@pytest.fixture
def build(small, tmp_path, monkeypatch):
    monkeypatch.setitem(CORPORA, "demo", Corpus(("en", "de"), lambda folder: folder / "bin"))
    monkeypatch.setattr("train_model.distill.PART", 8)
    return shutil.copytree(small, tmp_path / "build")


def distill(build, options=OPTIONS, **more):
    from train_model.distill import distill

    return distill("demo", build / "teacher.pt", options, build_dir=build, **more)


def read(stem):
    from fairseq.data import indexed_dataset

    return [row.tolist() for row in indexed_dataset.make_dataset(str(stem), impl="mmap")]


def test_targets_are_the_teachers_and_the_rest_is_the_corpus(build):
    original = build / "data/demo/bin"
    left = original / ".train.en-de.en.bin.partial-left"  # by a writer that was killed
    left.mkdir()
    binary = distill(build)
    left.rmdir()
    assert prepare("demo-distilled", build) == binary
    decoder = IncrementalDecoder.of(load_checkpoint(build / "teacher.pt").model)
    sources = read(original / "train.en-de.en")
    expected = [
        beam_search(decoder, torch.tensor([row]), OPTIONS)[0][0].tokens.tolist() for row in sources
    ]
    assert read(binary / "train.en-de.de") == expected
    assert len({tuple(row) for row in expected}) > 5
    names = {path.name for path in original.iterdir()}
    assert {path.name for path in binary.iterdir()} == names
    for name in names - {"train.en-de.de.bin", "train.en-de.de.idx"}:
        assert (binary / name).read_bytes() == (original / name).read_bytes()


def test_a_stopped_run_continues_and_another_teacher_starts_over(build):
    binary = distill(build)
    parts = sorted((binary.parent / "parts").iterdir())
    assert len(parts) == 4
    times = [path.stat().st_mtime_ns for path in parts]
    parts[1].unlink()
    (binary / "train.en-de.de.idx").unlink()
    with pytest.raises(UserError, match="half of it"):
        prepare("demo-distilled", build)
    distill(build)
    after = [path.stat().st_mtime_ns for path in parts]
    assert [before == now for before, now in zip(times, after, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
    distill(build, SearchOptions(beam=1, max_len_b=12))
    assert all(path.stat().st_mtime_ns > time for path, time in zip(parts, after, strict=True))


def test_a_corpus_that_was_made_again_is_translated_again(build):
    """The old parts are translations of other sentences."""
    binary = distill(build)
    before = pairs(binary)
    original = build / "data/demo"
    shutil.rmtree(original)
    demo.prepare(original, {"train": 29, "valid": 5, "test": 5}, merges=40)
    shutil.copy(binary / "dict.en.txt", original / "bin" / "dict.en.txt")
    write_binary(original / "bin" / "train.en-de.en", [source for source, _ in before[::-1]], 99)
    write_binary(original / "bin" / "train.en-de.de", [target for _, target in before[::-1]], 99)
    assert pairs(distill(build)) == before[::-1]


def test_what_does_not_fit_the_corpus_is_refused_before_anything_is_removed(build):
    binary = distill(build)
    with pytest.raises(UserError, match="--languages"):
        distill(build, languages=("de", "en"))
    with pytest.raises(UserError, match="a beam of 1000 does not fit a vocabulary"):
        distill(build, SearchOptions(beam=1000))
    index = build / "data/demo/bin/train.en-de.en.idx"
    index.write_bytes(index.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"train\.en-de\.en"):
        distill(build)
    assert len(pairs(binary)) == 30


def pairs(binary):
    return list(zip(read(binary / "train.en-de.en"), read(binary / "train.en-de.de"), strict=True))


def test_each_of_the_best_translations_is_a_pair(build):
    first = pairs(distill(build))
    both = pairs(distill(build, n_best=2))
    assert both[::2] == first
    assert [source for source, _ in both[1::2]] == [source for source, _ in first]
    assert sum(one != other for one, other in zip(both[::2], both[1::2], strict=True)) > 25
    with pytest.raises(UserError, match="3 translations per sentence need a beam of 3 or more"):
        distill(build, n_best=3)


def test_filters_leave_out_pairs_and_count_them(build):
    everything = pairs(distill(build, n_best=2))
    parts = {
        path: path.stat().st_mtime_ns for path in (build / "data/demo-distilled/parts").iterdir()
    }
    bounds = PairFilter(max_ratio=3, max_repeats=2, min_score=-4.7)
    binary = distill(build, n_best=2, pair_filter=bounds)
    counts = json.loads((binary.parent / "pairs.json").read_text())["pairs"]
    left = pairs(binary)
    assert set(counts) == {"kept", "length ratio", "repetition", "score"}
    assert (counts["kept"], sum(counts.values())) == (len(left), len(everything))
    good = [
        pair
        for pair in everything
        if max(map(len, pair)) <= 3 * min(map(len, pair)) and repeats(pair[1]) <= 2
    ]
    assert [pair for pair in good if pair in left] == left
    assert len(good) == len(left) + counts["score"]
    assert all(path.stat().st_mtime_ns == time for path, time in parts.items())
    assert pairs(distill(build, n_best=2)) == everything
    with pytest.raises(UserError, match=r"the filter keeps none of 60 pairs: \{'score': 60\}"):
        distill(build, n_best=2, pair_filter=PairFilter(min_score=0.0))


@pytest.mark.ray
def test_a_cluster_makes_the_same_corpus(build, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    from train_model import ray_cluster
    from train_model.distill import write_on_ray

    alone = shutil.copytree(distill(build, n_best=2).parent, tmp_path / "alone")
    shutil.rmtree(build / "data/demo-distilled")
    with ray_cluster.connected("local", num_cpus=2, object_store_memory=100 * 2**20) as ray:
        pool = ray_cluster.pool(ray, "cpu", None, 1, 1.0)
        assert pool[0] == 2
        binary = distill(build, n_best=2, write_parts=functools.partial(write_on_ray, ray, pool))
    for path in alone.glob("*/*"):
        other = binary.parent / path.relative_to(alone)
        assert other.read_bytes() == path.read_bytes(), path.name


def test_damaged_parts_and_records_are_one_line(build):
    binary = distill(build)
    part = next(binary.parent.glob("parts/*.npz"))
    for damage in (b"", b"PK\3\4", part.read_bytes()[:-40]):
        part.write_bytes(damage)
        with pytest.raises(UserError, match=r"npz is damaged; delete it, and distil again"):
            distill(build)
    part.unlink()
    for damage in ("{", "[]", "{}", "[" * 10**5):
        (binary.parent / "pairs.json").write_text(damage)
        with pytest.raises(UserError, match=r"pairs\.json is not .*delete its folder"):
            distill(build)


def test_mismatched_options_are_reported(build):
    with pytest.raises(UserError, match="distill --help"):
        prepare("demo-distilled", build)
    with pytest.raises(UserError, match="no corpus 'wmt17-distilled'"):
        prepare("wmt17-distilled", build)
    dictionary = build / "data/demo/bin/dict.de.txt"
    dictionary.write_text(dictionary.read_text() + "another 1\n")
    with pytest.raises(UserError, match="a teacher trained on this corpus"):
        distill(build)


@pytest.mark.parametrize(
    ("flags", "name", "corpus"),
    [
        ([], "wmt16-ar-200", "wmt16"),
        (["--corpus", "wmt16-raw"], "wmt16-ar-200", "wmt16-raw"),
        (["--distilled"], "wmt16-ar-200-distilled", "wmt16-distilled"),
        (["--corpus", "wmt16-raw", "--distilled"], "wmt16-ar-200-distilled", "wmt16-raw-distilled"),
    ],
)
def test_a_recipe_trains_on_the_corpus_that_is_asked_for(flags, name, corpus, monkeypatch):
    chosen = []
    monkeypatch.setattr(train, "train", lambda recipe, build_dir: chosen.append(recipe))
    train.main(["--recipe", "wmt16-ar-200", *flags])
    assert (chosen[0].name, chosen[0].corpus) == (name, corpus)
