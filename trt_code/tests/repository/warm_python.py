"""A Python with the large packages loaded, so that programs start at once.

``warm_python`` yields the path of a program to use in place of ``python``. The program passes its arguments,
folder, environment and standard streams to a server that forks for each call, so every command still has a
fresh process. It supports ``-m module``, ``-c code`` and a script, each with arguments.
"""

import array
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnx_graphsurgeon",
    "numpy",
    "matplotlib.pyplot",
)
# The client imports nothing that loads slowly, and not even site.
CLIENT = """\
#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    order = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([len(order).to_bytes(4, "big")], streams)
    server.sendall(order)
    sys.exit(int(server.makefile().read() or 1))
"""


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """Start the server in ``folder``; yield the program. The server ends with the block."""
    address, program = str(folder / "socket"), folder / "python"
    program.write_text(CLIENT.format(python=sys.executable, address=address))
    program.chmod(0o755)
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as server:
        assert server.stdout.read(1) == b"."  # the server listens
        try:
            yield program
        finally:
            server.terminate()


def serve(address: str) -> None:
    for package in PACKAGES:
        __import__(package)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b".")
        while True:
            client, _ = listener.accept()
            if os.fork():
                client.close()
                continue
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = _obey(client)
            client.sendall(str(code).encode())
            os._exit(0)


def _obey(client: socket.socket) -> int:
    """Run what the client was started for; return its exit status."""
    streams = array.array("i")
    size, ancillary, _, _ = client.recvmsg(4, socket.CMSG_SPACE(3 * streams.itemsize))
    streams.frombytes(ancillary[0][2])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # made again, because the server's objects remember whether the server's streams can seek
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    with client.makefile("rb") as order:
        arguments, folder, environment = json.loads(order.read(int.from_bytes(size, "big")))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        _run(arguments)
        code = 0
    except SystemExit as leave:
        if isinstance(leave.code, str):
            print(leave.code, file=sys.stderr)
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _run(arguments: list[str]) -> None:
    option, *rest = arguments
    if option == "-m":
        name, *sys.argv[1:] = rest
        sys.path[0] = os.getcwd()
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif option == "-c":
        code, *sys.argv[1:] = rest
        sys.argv[0], sys.path[0] = "-c", ""
        exec(code, {"__name__": "__main__"})
    else:
        sys.argv[:] = arguments
        sys.path[0] = str(Path(option).resolve().parent)
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
