"""Shared parts of command lines: one-line errors, closed or ASCII streams, outputs."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from train_model.cli import MAX_MESSAGE, Parser, UserError, atomic_path, check_output, output_folder

ROOT = Path(__file__).parents[2]


def started(code: str, shell: str = '"$@"', **environment: str) -> subprocess.CompletedProcess:
    """Run ``code`` as a command line's ``main``; ``shell`` redirects its streams."""
    code = f"import sys\nfrom train_model.cli import *\ndef main():\n {code}\nrun(main)"
    return subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.mark.parametrize(
    "message",
    [
        "\x1b[2J\x1b]0;title\x07two\nlines",
        "x" * 5_000_000,
        "\N{RIGHT-TO-LEFT OVERRIDE}abc",
        "\udce9",
    ],
    ids=["terminal", "long", "right to left", "surrogate"],
)
def test_a_message_is_one_short_line_of_printable_characters(message):
    text = str(UserError(f"{message} is wrong; mend it"))
    assert text.isprintable()
    assert len(text) < MAX_MESSAGE + 50
    assert text.endswith("is wrong; mend it")


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONUTF8": "0"}],
)
def test_stdout_is_utf8_in_every_locale(environment):
    environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = started('print("f\\xfcnf \\u20ac")', **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fünf €\n", "")


def test_a_path_that_is_not_utf8_can_be_printed():
    assert started('print("\\udce9")').stdout == "\\udce9\n"


@pytest.mark.parametrize(
    ("shell", "code", "status", "error"),
    [
        ('"$@" >&-', "print(1)", 2, "error: stdout is closed; send it to a file or to /dev/null\n"),
        ('"$@" <&-', "standard_input()", 2, "error: stdin is closed; pipe the text in, "),
        ('"$@" <&-', "print(1)", 0, ""),
        ('"$@" 2>&-', "print(1, file=sys.stderr)", 0, ""),
        ('"$@" >/dev/full', "print(1)", 2, "error: No space left on device\n"),
        ('"$@" >/dev/full', "raise UserError('wrong')", 2, "error: wrong\n"),
        ('"$@" 2>/dev/full', "raise UserError('wrong')", 2, ""),
        ('"$@" | true', "print('x' * 1_000_000)", 0, ""),
        ('{ "$@"; echo $? >&2; } | true', "print('x' * 1_000_000)", 0, "141\n"),
        ('"$@"', "raise BrokenPipeError(32, 'of a server')", 2, "error: of a server\n"),
        ('"$@"', "raise MemoryError", 2, "error: there is not enough memory"),
        (
            '"$@"',
            "import torch; torch.empty(1 << 60, dtype=torch.uint8)",
            2,
            "error: there is not enough memory",
        ),
    ],
)
def test_streams_that_are_closed_or_full(shell, code, status, error):
    done = started(code, shell)
    assert done.returncode == status
    assert done.stderr.startswith(error)
    assert done.stderr.count("\n") == bool(error)


def test_a_file_is_not_opened_as_a_closed_stream():
    done = started("print(open('/dev/null').fileno(), file=sys.stdout)", '"$@" 2>&- <&-')
    assert int(done.stdout) > 2


@pytest.mark.parametrize(
    "module", ["train_model.train", "onnx_export.export", "trt_code.translate"]
)
def test_ctrl_c_during_imports_is_quiet(module, tmp_path):
    """Replaces torch and NumPy by modules that an interrupt stops."""
    for package in ("torch", "numpy"):
        (tmp_path / f"{package}.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode in (130, -signal.SIGINT)  # after the imports, and in them
    assert done.stderr == b""


def test_a_program_that_imports_the_packages_keeps_its_own_hook():
    code = "import sys; hook = sys.excepthook; import trt_code, onnx_export; assert sys.excepthook is hook"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    given, link, new = tmp_path / "given", tmp_path / "link", tmp_path / "new" / "output"
    given.write_text("")
    link.symlink_to(given)
    check_output(new, given, None)
    assert not new.parent.exists()
    for output, message in (
        (tmp_path, "is a folder; give the name of a file"),
        (given, "is an input too and would be overwritten"),
        (link, "is an input too and would be overwritten"),
        (given / "output", f"{given} is not a folder"),
    ):
        with pytest.raises(UserError, match=message):
            check_output(output, given)


@pytest.mark.parametrize("kind", ["pipe", "socket", "link"])
def test_an_output_does_not_replace_a_device_or_a_pipe(tmp_path, kind):
    output = tmp_path / "output"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(output))
    else:
        os.mkfifo(tmp_path / "pipe")
        output.symlink_to("/dev/full" if kind == "link" else "pipe")
    before = output.lstat()
    with pytest.raises(UserError, match="output is a device, a pipe or a socket; give the name"):
        check_output(output)
    with (
        pytest.raises(UserError, match="output: it is a device, a pipe or a socket, not a file"),
        atomic_path(output) as draft,
    ):
        draft.write_text("new")
    assert output.lstat() == before
    assert {item.name for item in tmp_path.iterdir()} <= {"output", "pipe"}


def test_an_output_folder_that_may_not_be_written(tmp_path, monkeypatch):
    """Refused before the work, also if it is the default. A test may run as root, who may write anything."""
    parser = Parser()
    parser.add_argument("--output", type=output_folder, default=str(tmp_path / "default"))
    assert parser.parse_args([]).output == tmp_path / "default"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for given in ([], ["--output", str(tmp_path)], ["--output", str(tmp_path / "new" / "folder")]):
        with pytest.raises(UserError, match=f"{tmp_path} may not be written"):
            parser.parse_args(given)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        parser.parse_args(["--output", str(tmp_path / "file" / "folder")])


def test_a_file_in_place_of_an_output_folder(tmp_path):
    parser = Parser()
    parser.add_argument("--output", type=output_folder)
    (tmp_path / "file").touch()
    for name in (".", "new"):
        assert parser.parse_args(["--output", str(tmp_path / name)]).output == tmp_path / name
    with pytest.raises(
        UserError, match=r"^--output is a folder, and .*file is a file; see --help$"
    ):
        parser.parse_args(["--output", str(tmp_path / "file")])
