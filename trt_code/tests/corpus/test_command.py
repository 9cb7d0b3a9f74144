"""The messages of translate-corpus and distill without Ray, and a whole run of translate-corpus."""

import builtins
import gzip
import json

import pytest

from train_model import distill
from train_model.cli import UserError
from trt_code import translate_corpus
from trt_code.tests.tiny import SENTENCES

NEEDED = r"this needs Ray, .*; otherwise pip install 'lite-transformer-trt\[ray\]'"


@pytest.mark.parametrize(
    ("main", "options"),
    [
        (translate_corpus.main, ["--input", "in", "--output", "out"]),
        (distill.main, ["--teacher", "x.pt", "--ray"]),
    ],
)
def test_without_ray_one_line_says_how_to_get_it(main, options, monkeypatch):
    installed = builtins.__import__

    def without_ray(name, *more, **named):
        if name.partition(".")[0] in ("ray", "pyarrow", "fsspec"):
            raise ImportError(f"No module named {name!r}")
        return installed(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(UserError, match=NEEDED):
        main(options)


def test_a_cluster_that_does_not_answer(monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from train_model import ray_cluster

    def init(*_, **options):
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", init)
    words = r"cannot connect to Ray at head:6379: Failed to connect; .* copy ~/.ray/auth_token"
    with pytest.raises(UserError, match=words), ray_cluster.connected("head:6379"):
        pass


@pytest.fixture(scope="module")
def ray():
    pytest.importorskip("ray", reason="Ray is not installed")
    from train_model import ray_cluster

    with ray_cluster.connected("local", num_cpus=2, object_store_memory=100 * 2**20) as ray:
        yield ray


@pytest.fixture
def translate(ray, tmp_path, tiny_folder):
    """Run the program; return its exit status."""

    def translate(source, *options):
        paths = ["--input", str(source), "--output", str(tmp_path / "out")]
        model = ["--model", str(tiny_folder), "--device", "cpu", "--runner", "torch"]
        args = translate_corpus.make_parser().parse_args(
            [*paths, *model, "--workers", "1", *options]
        )
        files = translate_corpus.find_model(args.model)
        return translate_corpus.translate_corpus(args, files, ray)

    return translate


def test_int8_goes_on_with_the_same_calibration_only(tiny_folder, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    from train_model import ray_cluster
    from trt_code.corpus import on_ray

    monkeypatch.setattr(ray_cluster, "pool", lambda *_: ())
    monkeypatch.setattr(on_ray, "translate", lambda *_: on_ray.Summary())
    (tmp_path / "in.txt").write_text("one\n")
    paths = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out")]
    options = ["--device", "cpu", "--precision", "int8", "--build-dir", str(tmp_path)]
    args = translate_corpus.make_parser().parse_args(
        [*paths, *options, "--model", str(tiny_folder)]
    )
    files = translate_corpus.find_model(args.model)
    quantized = tmp_path / f"{files.name}-ptq" / "checkpoint.pt"
    quantized.parent.mkdir()
    quantized.write_bytes(b"ranges")
    for _ in range(2):
        assert translate_corpus.translate_corpus(args, files, None) == 0
    quantized.write_bytes(b"other ranges")
    with pytest.raises(UserError, match=r"was translated with quantized .*; give a new folder"):
        translate_corpus.translate_corpus(args, files, None)


@pytest.mark.ray
def test_a_run_from_its_start_to_its_end(translate, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path
    out = tmp_path / "out"
    text = "".join(f"{line}\n" for line in SENTENCES)
    (source / "a.txt").write_text(text)
    (source / "b.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1, "text": "two"}\n'))
    pq.write_table(pa.table({"text": SENTENCES, "id": range(5)}), source / "c.parquet")
    assert translate(source) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"{out}: 3 shards, 11 rows; 0 shards were finished before\n11 rows translated"
    )
    lines = (out / "a.txt").read_text().splitlines()
    table = pq.read_table(out / "c.parquet")
    assert [line.split("\t")[2] for line in lines] == table["translation"].to_pylist()
    assert table["id"].to_pylist() == list(range(5))
    assert json.loads(gzip.decompress((out / "b.jsonl.gz").read_bytes()))["id"] == 1
    assert translate(source) == 0
    assert capsys.readouterr().out == (f"{out}: 3 shards, 11 rows; 3 shards were finished before\n")

    (source / "d.txt.gz").write_bytes(gzip.compress(text.encode())[:-9])
    (source / "e.txt").write_text("two\nq\n")
    assert translate(source) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(
        f"{out}: 4 shards, 13 rows; 3 shards were finished before\n2 rows"
    )
    assert captured.out.endswith(f"1 rows were rejected; the reasons are in {out}/_rejected\n")
    assert "not translated: d.txt.gz: Compressed file ended before" in captured.err
    assert not (out / "d.txt.gz").exists()
    assert translate(source / "[abce].*") == 1  # rows are still missing in e.txt
    with pytest.raises(UserError, match="was translated with n_best 1, not n_best 2; give a new"):
        translate(source, "--n-best", "2")
    with pytest.raises(UserError, match="the input is inside the output"):
        translate(out)
    with pytest.raises(UserError, match="an actor needs 3"):
        translate(source, "--threads", "3")
