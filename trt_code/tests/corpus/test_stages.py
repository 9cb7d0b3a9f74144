"""The steps of translate-corpus, each called as Ray calls it, but in this process."""

import errno
import json

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
from fsspec.implementations.local import LocalFileSystem

from train_model.cli import UserError
from trt_code.corpus import manifest, on_ray
from trt_code.corpus.storage import Folder, locate
from trt_code.tests.tiny import SENTENCES
from trt_code.text.api import Translator

pytestmark = pytest.mark.ray
BAD = "zürich"
SHARD = [*SENTENCES, BAD, "", "two"]


class FullDisk(LocalFileSystem):
    """A disk without space for files whose name contains ``full``."""

    cachable = False
    full = "nothing"

    def open(self, path, mode="rb", **options):
        if mode == "wb" and self.full in path.rpartition("/")[2]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().open(path, mode, **options)


@pytest.fixture
def job(tmp_path, tiny_folder):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("\n".join(SHARD) + "\n", encoding="utf-8")
    output = Folder(FullDisk(), str(tmp_path / "out"), "out")
    options = {"device": "cpu", "runner": "torch"}
    kinds = {"a.txt": "text"}
    return on_ray.Job(
        locate(str(tmp_path / "in")), output, kinds, "text", str(tiny_folder), options
    )


@pytest.fixture
def worker(job):
    return on_ray.Worker(job)


def results(job, worker, name="a.txt"):
    """Return the rows that the driver gets for a shard."""
    blocks = [worker(chunk) for chunk in on_ray.read({"shard": [name]}, job)]
    return [{key: value[0] for key, value in block.items()} for block in blocks]


def parts_of(found):
    parts = on_ray.ShardParts()
    for result in found:
        assert not parts.is_complete()
        parts.add(result)
    return parts


def test_a_shard_goes_through_all_steps(job, worker, tmp_path, tiny_folder):
    parts = parts_of(results(job, worker))
    assert parts.is_complete()
    record = on_ray.join(job, "a.txt", parts)
    assert (record.rows_in, record.rows_out, record.rejected) == (len(SHARD), len(SHARD) - 1, 1)
    with Translator(tiny_folder, **job.translator) as translator:
        batch = translator.translate_batch([line for line in SHARD if line != BAD])
    numbers = [number for number, line in enumerate(SHARD, 1) if line != BAD]
    expected = [
        f"{number}\t{f'{scores[0]:.4f}' if texts else ''}\t{texts[0] if texts else ''}"
        for number, texts, scores in zip(numbers, batch.texts, batch.scores, strict=True)
    ]
    out = tmp_path / "out"
    assert (out / "a.txt").read_text().splitlines() == expected
    (rejected,) = map(json.loads, (out / "_rejected/a.txt.jsonl").read_text().splitlines())
    assert (rejected["row"], rejected["source"]) == (6, BAD)
    assert rejected["reason"].startswith("line 6: ")
    assert manifest.finished(job.source, job.output, ["a.txt"]) == {"a.txt": record}
    assert not list((out / job.parts).iterdir())
    # Ray repeats a task if it has lost the result; the parts no longer exist then
    assert on_ray.join(job, "a.txt", parts) == record


def test_a_shard_is_finished_as_long_as_nothing_changes(job, worker, tmp_path):
    def finished():
        return list(manifest.finished(job.source, job.output, ["a.txt", "b.txt"]))

    def finish():
        on_ray.join(job, "a.txt", parts_of(results(job, worker)))
        assert finished() == ["a.txt"]

    assert finished() == []
    finish()
    (tmp_path / "in/a.txt").write_text("one\n")
    assert finished() == []
    finish()
    assert not (tmp_path / "out/_rejected/a.txt.jsonl").exists()
    (tmp_path / "out/a.txt").write_text("")
    assert finished() == []
    finish()
    record = tmp_path / "out/_manifest/a.txt.json"
    record.write_text(record.read_text()[:40])
    assert finished() == []
    (tmp_path / "in/a.txt").unlink()
    assert finished() == []


@pytest.mark.parametrize("name", ["part", "rejected", "output", "side file", "record"])
def test_a_full_disk_leaves_no_finished_shard(job, worker, tmp_path, name):
    parts = {"part": "000000000001", "rejected": "001.rejected"}
    job.output.fs.full = parts.get(name, "nothing")
    found = results(job, worker)
    fatal = "".join(result["fatal"] for result in found)
    if name not in parts:
        files = {"output": ".a.txt.", "side file": ".a.txt.jsonl.", "record": ".a.txt.json."}
        job.output.fs.full = files[name]
        fatal = on_ray.join(job, "a.txt", parts_of(found))
    assert fatal.startswith("cannot write out: No space left on device; free some space; ")
    assert not manifest.finished(job.source, job.output, ["a.txt"])
    job.output.fs.full = "nothing"
    assert on_ray.join(job, "a.txt", parts_of(results(job, worker))).rejected == 1


def test_unreadable_input_is_reported(job, worker, tmp_path):
    (tmp_path / "in/b.txt.gz").write_bytes(b"nothing")
    job.kinds.update({"b.txt.gz": "text", "c.txt": "text", "d.txt": "parquet"})
    (tmp_path / "in/d.txt").write_bytes(b"nothing")
    for name, reason in (
        ("b.txt.gz", "Not a gzipped file"),
        ("c.txt", "No such file"),
        ("d.txt", "Parq"),
    ):
        (result,) = results(job, worker, name)
        assert reason in result["error"]
        assert "\n" not in result["error"]


def test_a_model_that_is_missing_on_a_node_is_fatal(job, worker, tmp_path):
    object.__setattr__(job, "model", str(tmp_path / "nothing"))
    (result, _) = results(job, on_ray.Worker(job))
    assert "is not a model" in result["fatal"]


def test_settings_of_a_folder(tmp_path):
    output = locate(str(tmp_path / "out"))
    manifest.claim(output, {"model": "demo", "n_best": 1})
    manifest.claim(output, {"model": "demo", "n_best": 1})
    with pytest.raises(
        UserError, match="was translated with n_best 1, not n_best 2; give a new folder"
    ):
        manifest.claim(output, {"model": "demo", "n_best": 2})
    for damage in ("{", "[]", "[" * 10**5, "\udcff"):
        content = damage.encode(errors="surrogateescape")
        (tmp_path / "out/_manifest/settings.json").write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            manifest.claim(output, {"model": "demo"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("")
    with pytest.raises(UserError, match="is not empty; give a new folder"):
        manifest.claim(locate(str(tmp_path / "full")), {})


def test_the_rate_is_that_of_the_time_in_which_actors_worked():
    summary = on_ray.Summary()
    assert summary.rate == summary.seconds == 0
    shared = {"cpu_s": 1.5, "peak_mb": 100.0}
    # both arrive at the driver at the same time
    summary.count({"rows": 600, "began": 10.0, "ended": 14.0, "worker": "a:1", **shared})
    summary.count({"rows": 200, "began": 9.0, "ended": 11.0, "worker": "a:2", **shared})
    assert (summary.seconds, summary.rate, summary.cpu_s) == (5, 160, 3)
    assert summary.workers == {"a:1": (600, 100.0), "a:2": (200, 100.0)}
