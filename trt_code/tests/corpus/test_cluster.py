"""A real Ray cluster of two nodes: killed processes lose no finished shard, and the output stays the same."""

import gzip
import signal
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed")
from trt_code.tests.corpus.clusters import TwoNodes, kill, start, wait_for
from trt_code.tests.tiny import WORDS
from trt_code.text.api import Translator

pytestmark = pytest.mark.ray
SHARDS, LINES = 6, 3000
PROGRAM = "trt_code.translate_corpus"


@pytest.fixture(scope="module")
def cluster():
    with TwoNodes() as cluster:
        yield cluster


def sentence(number: int) -> str:
    words = [WORDS[number // base % len(WORDS)] for base in (1, 14, 196)]
    return " ".join(words[: 1 + number % 3] * (1 + number % 2))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for shard in range(SHARDS):
        lines = [sentence(shard * LINES + i) for i in range(LINES)]
        with gzip.open(folder / f"part{shard}.txt.gz", "wt") as file:
            file.writelines(line + "\n" for line in lines)
    return folder


def read(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.fixture(scope="module")
def expected(corpus, tiny_folder):
    """Name of each shard to its translations, by the translator in this process."""
    with Translator(tiny_folder, device="cpu", runner="torch") as translator:
        return {
            path.name: [best[0] for best in translator.translate_batch(read(path)).texts]
            for path in sorted(corpus.iterdir())
        }


def translations(output: Path) -> dict[str, list[str]]:
    """Name of each shard to its translations, checked to be numbered without a gap or a repetition."""
    found = {}
    for path in sorted(output.glob("*.txt.gz")):
        rows = [line.split("\t") for line in read(path)]
        assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
        assert all(float(score) for _, score, _ in rows)
        found[path.name] = [text for _, _, text in rows]
    return found


@pytest.fixture
def run(cluster, corpus, tiny_folder, tmp_path):
    """Start the program on the corpus; return the process and the output folder."""
    output = tmp_path / "output"

    def run():
        options = ["--input", corpus, "--output", output, "--model", tiny_folder]
        options += [
            "--address",
            cluster.address,
            "--workers",
            2,
            "--device",
            "cpu",
            "--runner",
            "torch",
        ]
        return start(PROGRAM, *options), output

    return run


def records(output: Path) -> list[Path]:
    return sorted(output.glob("_manifest/part*.json"))


def end(process) -> str:
    """Wait until the program has succeeded; return its output."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_a_killed_actor_and_a_killed_node_change_nothing(run, cluster, expected):
    process, output = run()
    wait_for(lambda: list(output.glob("_parts/*/*/*")) and len(cluster.actors()) == 2)
    kill(cluster.actors()[0])
    wait_for(lambda: records(output))
    before = {path: path.read_bytes() for path in records(output)}
    cluster.kill_second()
    try:
        assert process.poll() is None  # killed before the end
        said = end(process)
    finally:
        cluster.restore()
    assert f"{SHARDS} shards, {SHARDS * LINES} rows" in said
    assert translations(output) == expected
    assert all(path.read_bytes() == text for path, text in before.items())
    assert not (output / "_parts").exists()


def test_a_killed_driver_continues(run, expected):
    process, output = run()
    wait_for(lambda: records(output))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in records(output)}
    assert len(before) < SHARDS
    shards = {path: path.stat().st_mtime_ns for path in output.glob("*.gz")}
    said = end(run()[0])
    assert f"; {len(before)} shards were finished before" in said
    assert translations(output) == expected
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    kept = {output / json_path.name.removesuffix(".json") for json_path in before}
    assert all(path.stat().st_mtime_ns == shards[path] for path in kept)
