"""Arguments shared by several programs: accepted values, and one-line refusals."""

import argparse
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from train_model.cli import Parser, UserError, number, output_folder, path_argument, whole_number
from trt_code import arguments, translate
from trt_code.engine import profiles
from trt_code.runners import Request, names
from trt_code.stress.surroundings import COMMANDS

PROGRAMS = [
    "trt_code.bench",
    "trt_code.evaluate",
    "trt_code.translate",
    "trt_code.measure.compare",
    "trt_code.measure.sweep",
    "trt_code.measure.throughput",
]


ODD_SIZES = ("\u0663", "\u00b2", "9" * 5000, "1" + "0" * 9)
"""An Arabic digit, a superscript, more digits than Python converts, and a number above nine digits."""
EACH_TAKES_MEMORY = {
    *("threads", "callers", "processes", "runners", "workers", "instances", "text-instances"),
    *("beam", "n-best", "candidates", "pool", "lines", "generate", "width", "batch", "concurrency"),
}
ODD_SHAPES = [f"{size}x8" for size in ODD_SIZES]


def test_parse_shapes():
    assert arguments.parse_shapes("16x32, 1x8") == [(16, 32), (1, 8)]


@pytest.mark.parametrize(
    "text", ["", "16", "16x", "0x8", "4x2", "-1x8", "16x32;1x8", "axb", *ODD_SHAPES]
)
def test_bad_shapes_are_one_line(text):
    with pytest.raises(UserError, match="BATCHxLENGTH"):
        arguments.parse_shapes(text)


@pytest.mark.parametrize("text", [*ODD_SHAPES, "0x8"])
def test_bad_shapes_and_ranges_of_engines_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        profiles.shape_argument(text)
    with pytest.raises(argparse.ArgumentTypeError):
        profiles.range_argument(f"beam=1:1:{text}")


def test_parse_names_refuses_with_the_known_ones():
    assert arguments.parse_names("a,b,a", ["a", "b", "c"], "runner") == ["a", "b"]
    assert arguments.parse_names(" a b , c", ["a", "b", "c"], "runner") == ["a", "b", "c"]
    with pytest.raises(UserError, match="no runner 'd'; choose from a, b, c"):
        arguments.parse_names("a,d", ["a", "b", "c"], "runner")
    with pytest.raises(UserError, match="no runner ''"):
        arguments.parse_names("a,,b", ["a", "b", "c"], "runner")


def test_parse_sizes():
    assert arguments.parse_sizes("1, 16,4", "--batches") == [1, 16, 4]


@pytest.mark.parametrize("text", ["", "1,", "0", "-1", "1.5", "1;2", "x", *ODD_SIZES])
def test_bad_sizes_are_one_line(text):
    with pytest.raises(UserError, match=r"--batches .* is not a list of whole numbers above 0"):
        arguments.parse_sizes(text, "--batches")


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (whole_number(1), "7", 7),
        (whole_number(-3, 3), "-3", -3),
        (number(0), "2.5", 2.5),
        (number(-1, 1), "1e-1", 0.1),
    ],
)
def test_numbers_within_their_bounds(convert, text, value):
    assert convert(text) == value


@pytest.mark.parametrize(
    ("convert", "text", "message"),
    [
        (whole_number(1), "0", "--n is at least 1, not '0'"),
        (whole_number(1), "-1", "--n is at least 1, not '-1'"),
        (whole_number(1), "1.5", "--n is a whole number of at least 1, not '1.5'"),
        (whole_number(1), "1,000", "--n is a whole number of at least 1, not '1,000'"),
        (whole_number(1), "1e3", "--n is a whole number of at least 1, not '1e3'"),
        (whole_number(1), "", "--n is a whole number of at least 1, not ''"),
        (whole_number(1), "9" * 18, "--n is at most 2147483647, not '9"),
        (whole_number(1), "9" * 5000, "--n is at most 2147483647, not '9"),
        (whole_number(1), "-" + "9" * 5000, "--n is at least 1, not '-9"),
        (whole_number(1), "\u0661", "--n is a whole number of at least 1, not"),  # an Arabic digit
        (whole_number(0, 4), "5", "--n is at most 4, not '5'"),
        (number(0), "-0.1", "--n is at least 0, not '-0.1'"),
        (number(0), "nan", "--n is a number of at least 0, not 'nan'"),
        (number(0), "inf", "--n is at most 1000000000, not 'inf'"),
        (number(0), "much", "--n is a number of at least 0, not 'much'"),
        (number(0), "0,5", "--n is a number of at least 0, not '0,5'"),
        (number(0), "-inf", "--n is at least 0, not '-inf'"),
    ],
)
def test_numbers_beyond_their_bounds_are_one_line(convert, text, message):
    parser = Parser()
    parser.add_argument("--n", type=convert)
    with pytest.raises(UserError) as error:
        parser.parse_args(["--n=" + text])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--threads", "0"], "--threads is at least 1, not '0'"),
        (["--lenpen", "nan"], "--lenpen is a number of at least -10, not 'nan'"),
        (["--threads", "100000"], "--threads is at most 256, not '100000'"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_programs_refuse_the_same_in_the_same_words(program, given, message):
    with pytest.raises(UserError, match=message):
        importlib.import_module(program).main(given)


@pytest.mark.parametrize(
    ("program", "option", "value", "message"),
    [
        ("bench", "--shape", "1x25", "24 positions"),
        ("bench", "--repeats", "0", "--repeats is at least 1, not '0'"),
        ("bench", "--threads", "-1", "--threads is at least 1"),
        ("bench", "--runner", "tensorflow", "choose from native, torch"),
        ("bench", "--precision", "fp7", "choose from fp32"),
        ("measure.sweep", "--blocks", "tensorflow:fp32", "no runner out of native, torch, ort"),
        ("measure.sweep", "--blocks", "torch", "no precision out of fp32"),
        ("measure.sweep", "--batches", "1,0", "is not a list of whole numbers"),
        ("measure.sweep", "--lengths", "8,x", "is not a list of whole numbers"),
    ],
)
def test_bad_options_write_nothing(program, option, value, message, zoo, tmp_path):
    given = ["--model", "tiny", "--device", "cpu", "--output", str(tmp_path), option, value]
    with pytest.raises(UserError, match=message):
        importlib.import_module(f"trt_code.{program}").main(given)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("program", [*PROGRAMS, "trt_code.stress.under_load"])
def test_programs_that_run_an_engine_have_its_options(program):
    main = importlib.import_module(program).main
    with pytest.raises(UserError, match=r"--kernels: invalid choice: 'later' .*eager.*lazy.*none"):
        main(["--kernels", "later"])
    with pytest.raises(UserError, match=r"--cuda-graph: invalid choice: 'all' .*runner.*library"):
        main(["--cuda-graph", "all"])


def parser_of(module, monkeypatch):
    """Return the parser that a program makes."""
    made = []

    def stop(self, *_):
        made.append(self)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Parser, "parse_args", stop)
        with pytest.raises(SystemExit):
            importlib.import_module(module).main([])
    return made[0]


@pytest.mark.parametrize("module", sorted({command.module for command in COMMANDS.values()}))
def test_no_option_takes_an_empty_value(module, monkeypatch):
    """An empty path would be the current folder, and an empty name no name.

    Nor does a path take bytes that are not UTF-8, since onnx and others cannot open such a name.
    """
    parser = parser_of(module, monkeypatch)
    for action in parser._actions:
        action.required = False
    for group in parser._mutually_exclusive_groups:
        group.required = False
    options = [a for a in parser._actions if a.option_strings and a.nargs != 0]
    for option in options:
        for value in ("", " "):
            count = option.nargs if isinstance(option.nargs, int) else 1
            given = [option.option_strings[-1], *[value] * count]
            with pytest.raises(UserError):
                parser.parse_args(given)
    for option in parser._actions:
        assert option.type is not Path
        if option.type in (path_argument, output_folder):
            name = (option.option_strings or [option.dest])[-1]
            for value in ("", "\udcff"):  # the second one is a byte that is not UTF-8
                with pytest.raises(UserError, match=re.escape(f"{name} is a path, not {value!r}")):
                    parser.parse_args([f"{name}={value}"] if option.option_strings else [value])


@pytest.mark.parametrize("module", sorted({command.module for command in COMMANDS.values()}))
def test_programs_work_without_docstrings(module, monkeypatch):
    """``python -OO`` removes them."""
    monkeypatch.setattr(importlib.import_module(module), "__doc__", None)
    assert parser_of(module, monkeypatch).format_help().startswith("usage: ")


@pytest.mark.parametrize("module", sorted({command.module for command in COMMANDS.values()}))
def test_no_option_takes_more_than_a_machine_has(module, monkeypatch):
    """Each of these is a thread, a process, a copy of a network, a hypothesis, or a line in memory."""
    parser = parser_of(module, monkeypatch)
    for action in parser._actions:
        action.required = False
    for option in parser._actions:
        name = (option.option_strings or [""])[-1].removeprefix("--")
        if name in EACH_TAKES_MEMORY:
            with pytest.raises(UserError, match="at most"):
                parser.parse_args([f"--{name}", "50000000"])


def test_a_beam_smaller_than_the_translations_per_sentence_is_refused():
    given = ["--device", "cpu", "--runner", "torch", "--n-best", "3", "--beam", "2"]
    with pytest.raises(
        UserError, match="3 translations per sentence need a beam of 3 or more, not 2"
    ):
        translate.main(["--model", "demo-ar", *given, "five"])


def test_options_of_an_engine_reach_the_runner():
    parser = Parser()
    arguments.add_build_dir(parser)
    arguments.add_machine(parser)
    given = parser.parse_args(["--kernels", "lazy", "--cuda-graph", "none"])
    request = Request(None, "fp16", "cuda", "trt", **arguments.runner_options(given))
    assert (request.kernels, request.cuda_graph) == ("lazy", "none")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_every_default(program, capsys):
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module(program).main(["--help"])
    assert exit_.value.code == 0
    assert "--threads N" in capsys.readouterr().out


def test_lists_of_runners_have_rivals_only_where_asked():
    parser = Parser()
    arguments.add_runners(parser, "fp32,fp16")
    given = parser.parse_args([])
    assert (given.runner, given.precision) == (names(), ["fp32", "fp16"])
    with pytest.raises(UserError, match="no runner 'torch-compile'"):
        parser.parse_args(["--runner", "torch-compile"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("bench", ["--runner", "cuda-graph", "--precision", "fp8"]),
        ("evaluate", ["--runner", "cuda-graph", "--precision", "fp16", "--limit", "2"]),
        ("measure.sweep", ["--blocks", "cuda-graph:fp16", "--batches", "1", "--lengths", "8"]),
    ],
)
def test_a_gpu_that_is_not_there_is_one_line(module, options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x"])
    program = importlib.import_module(f"trt_code.{module}")
    given = ["--model", "demo", "--device", "cuda", "--output", str(tmp_path / "out"), *options]
    with pytest.raises(UserError, match=r"(no CUDA GPU|none of the runners can run)"):
        program.main(given)
