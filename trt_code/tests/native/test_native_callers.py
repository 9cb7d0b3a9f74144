"""Several threads that call one native network at once."""

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from train_model.models.hypotheses import SearchOptions
from train_model.tests.networks import of_architecture, small
from trt_code.native import library
from trt_code.native.export import to_program
from trt_code.native.program import SUFFIX, LoadedProgram
from trt_code.native.search import search
from trt_code.native.translation import translate

CALLERS, CALLS = 8, 5


def load(model, folder):
    path = folder / f"model{SUFFIX}"
    to_program(model.eval()).save(path)
    return LoadedProgram(library.load(), path)


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory):
    return load(small(), tmp_path_factory.mktemp("program"))


def batches(sizes):
    """Batches of these many sentences of 1 to 13 tokens."""
    generator = np.random.default_rng(5)
    for size in sizes:
        tokens = generator.integers(4, 20, (size, 13))
        tokens[np.arange(13) >= generator.integers(1, 14, (size, 1))] = 1
        yield tokens


def at_once(call, arguments):
    """Call from ``CALLERS`` threads that begin together, each with all arguments in an order of its own."""
    begin = threading.Barrier(CALLERS)

    def work(caller):
        begin.wait()
        turned = np.roll(np.arange(len(arguments)), caller).tolist()
        return {i: call(arguments[i]) for i in turned}

    with ThreadPoolExecutor(CALLERS) as pool:
        return [
            [found[i] for i in range(len(arguments))] for found in pool.map(work, range(CALLERS))
        ]


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_callers_of_a_pass_get_what_a_lone_caller_gets(one_pass, threads):
    todo = list(batches([1, 3, 1, 7, 2]))
    expected = [translate(one_pass, tokens, 1) for tokens in todo]
    for results in at_once(lambda tokens: translate(one_pass, tokens, threads), todo):
        assert all(map(same, results, expected))


def test_callers_of_a_search_get_what_a_lone_caller_gets(tmp_path):
    program = load(of_architecture("transformer"), tmp_path)
    todo = [
        (tokens, SearchOptions(beam=beam, max_len_b=20))
        for tokens, beam in itertools.product(batches([1, 3, 6]), (1, 4))
    ]
    expected = [search(program, tokens, options, 1) for tokens, options in todo]
    for results in at_once(lambda one: search(program, *one, 2), todo):
        for found, wanted in zip(results, expected, strict=True):
            assert same(vars(found).values(), vars(wanted).values())


def test_a_call_runs_while_another_leaves_a_thread(one_pass):
    """A long call has one thread. A short one that may use two ends before it; one that may use one waits."""
    many, short = next(batches([15000])), next(batches([1]))
    with ThreadPoolExecutor(1) as pool:
        for threads, waits in ((2, False), (1, True)):
            long = pool.submit(translate, one_pass, many, 1)
            time.sleep(0.1)  # until the long call is in the library
            translate(one_pass, short, threads)
            assert not long.done() or waits
            long.result(0.4 if waits else None)


def test_all_calls_together_use_the_threads_that_were_asked_for(one_pass):
    """Each call has its caller's thread; only those beyond it are the library's."""
    tokens, most, done = next(batches([60])), 0, threading.Event()
    before = len(os.listdir("/proc/self/task"))

    def watch():
        nonlocal most
        while not done.is_set():
            most = max(most, len(os.listdir("/proc/self/task")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    at_once(lambda tokens: translate(one_pass, tokens, 3), [tokens] * CALLS)
    done.set()
    watcher.join()
    assert most <= before + 1 + CALLERS + 2  # the watcher, the callers, and two of the library
