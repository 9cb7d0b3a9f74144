"""A Ray cluster of two node processes on this machine, and a corpus for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
OBJECT_STORE = 100 * 2**20
PATIENCE = 120


class TwoNodes:
    """Two raylets with one processor each; the first is the head. Use it as a context manager."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._options = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
        self._cluster = Cluster(
            initialize_head=True, head_node_args=self._options | {"include_dashboard": False}
        )
        self.second = self._cluster.add_node(**self._options)
        self.address = self._cluster.address

    def kill_second(self) -> None:
        """Kill the second node and all its actors at once."""
        self._cluster.remove_node(self.second, allow_graceful=False)

    def restore(self) -> None:
        """Start the second node again after a kill."""
        self.second = self._cluster.add_node(**self._options)
        self._cluster.wait_for_nodes()

    def actors(self) -> list[int]:
        """Return the process ids of the actors that translate."""
        nodes = [self._cluster.head_node, self.second]
        raylets = {node.all_processes["raylet"][0].process.pid for node in nodes}
        return [pid for pid, parent, name in processes() if parent in raylets and "Worker)" in name]

    def __enter__(self) -> "TwoNodes":
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()


def processes() -> Iterator[tuple[int, int, str]]:
    """Yield process id, parent's id and command line of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            yield int(folder.name), int(parent), (folder / "cmdline").read_text()
        except OSError:  # the process has ended
            continue


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` returns something true; fail after ``PATIENCE`` seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def start(module: str, *arguments: object) -> subprocess.Popen:
    """Start ``python -m module`` of this clone."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
