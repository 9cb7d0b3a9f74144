"""Ctrl-C inside code that catches it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from train_model import interrupt


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # the handler runs between two operations
        pass


def into_another_error():
    try:
        ctrl_c()
    except KeyboardInterrupt:
        raise AttributeError("half imported") from None


def into_nothing():
    try:
        ctrl_c()
    except KeyboardInterrupt:
        return


@pytest.mark.parametrize("caught", [ctrl_c, into_another_error, into_nothing])
def test_ctrl_c_is_passed_on_whatever_catches_it(caught):
    with pytest.raises(KeyboardInterrupt), interrupt.passed_on():
        caught()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_stay():
    with pytest.raises(ValueError, match="wrong"), interrupt.passed_on():
        raise ValueError("wrong")


def test_other_threads_and_handlers_stay():
    def in_thread():
        with interrupt.passed_on():
            done.append(True)

    done = []
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert done
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.passed_on():
            ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupted:
    def __del__(self):
        ctrl_c()


def test_ctrl_c_in_a_destructor_is_repeated(monkeypatch):
    others = []
    monkeypatch.setattr(sys, "unraisablehook", others.append)

    def work():
        with interrupt.repeated():
            Interrupted()
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert sys.unraisablehook == others.append
    assert not others


def test_other_errors_in_a_destructor_go_to_the_hook(monkeypatch):
    class Wrong:
        def __del__(self):
            raise ValueError

    others = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: others.append(error.exc_type))
    with interrupt.repeated():
        Wrong()
    assert others == [ValueError]


POOLS = """
import concurrent.futures, time
from train_model.cli import run
from train_model.processes import FORK, SPAWN

def main():
    with concurrent.futures.ProcessPoolExecutor(2, SPAWN) as spawned, FORK.Pool(2) as forked:
        for pool in (spawned.submit, lambda *job: forked.apply_async(job[0], job[1:])):
            for _ in range(2):
                pool(time.sleep, 0.1)
        print("started", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.parametrize("wait", [0, 1])
def test_ctrl_c_to_a_program_and_its_processes_prints_nothing(tmp_path, wait):
    """A terminal sends it to all of them, also while they start."""
    (tmp_path / "pools.py").write_text(POOLS)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "pools.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
