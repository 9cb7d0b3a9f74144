"""The repository in a real Triton, over HTTP and gRPC (doc/serving.md: how to get one without containers).

``TRITONSERVER`` names a folder laid out as /opt/tritonserver; ``TRITON_PYTHON`` an interpreter for the
server's Python models, if the server's own lacks their packages. If that Triton has no ONNX Runtime
backend, a model in Python stands in for it, with the same file and configuration.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from train_model.data.tokenizer import Tokenizer
from trt_code.runners import create
from trt_code.tests.tiny import SENTENCES
from trt_code.text.translator import LineTranslator
from trt_code.triton import repository

HOME = Path(os.environ.get("TRITONSERVER", "/opt/tritonserver"))
PYTHON = os.environ.get("TRITON_PYTHON")
pytestmark = pytest.mark.skipif(
    not (HOME / "bin/tritonserver").is_file(),
    reason=f"no Triton in {HOME}; name its folder with TRITONSERVER= (doc/serving.md)",
)
ONNX_STAND_IN = """
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self._session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        tokens = pb_utils.get_input_tensor_by_name(request, "src_tokens").as_numpy()
        names = [output.name for output in self._session.get_outputs()]
        outputs = self._session.run(names, {"src_tokens": tokens})
        return pb_utils.InferenceResponse(list(map(pb_utils.Tensor, names, outputs)))
"""


class Triton:
    """A running server on the loopback."""

    def __init__(self, folder: Path, log: Path):
        self.http, self.grpc, metrics = (_free_port() for _ in range(3))
        self.log = log
        command = [
            folder / "serve.sh",
            f"--backend-directory={HOME}/backends",
            *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            f"--http-port={self.http}",
            f"--grpc-port={self.grpc}",
            f"--metrics-port={metrics}",
        ]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, env=_environment(), stdout=output, stderr=subprocess.STDOUT
            )

    def wait_until_ready(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                return self.get("/v2/health/ready", text=True)
            except urllib.error.URLError:
                time.sleep(0.1)
        raise AssertionError(f"not ready after a minute: {self.log.read_text()[-4000:]}")

    def get(self, path: str, body: dict | None = None, *, text: bool = False):
        data = json.dumps(body).encode() if body else None
        url = f"http://127.0.0.1:{self.http}{path}"
        with urllib.request.urlopen(url, data, timeout=60) as reply:
            return reply.read() if text else json.load(reply)

    def translate(self, sentences: list[str]) -> list[str]:
        source = {"name": "TEXT", "shape": [len(sentences), 1], "datatype": "BYTES"}
        body = {"inputs": [source | {"data": sentences}]}
        return self.get("/v2/models/lite_translate/infer", body)["outputs"][0]["data"]

    def counts(self) -> tuple[int, int]:
        """Return the number of sentences that the network has had so far, and of batches."""
        (stats,) = self.get("/v2/models/lite_network/stats")["model_stats"]
        return stats["inference_count"], stats["execution_count"]


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment() -> dict[str, str]:
    """Triton first on the PATH, then the interpreter: the backend takes ``python3`` from there."""
    path, libraries = [f"{HOME}/bin"], []
    if PYTHON:
        path.append(str(Path(PYTHON).parent))
        code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
        libraries.append(subprocess.check_output([PYTHON, "-c", code], text=True).strip())
    return os.environ | {
        "PATH": os.pathsep.join([*path, os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
    }


@pytest.fixture(scope="module")
def triton(tmp_path_factory, tiny_files, tiny_build):
    folder = tmp_path_factory.mktemp("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repository, "find_model", lambda name, build_dir: tiny_files)
        flags = ["--build-dir", str(tiny_build), "--output", str(folder / "repository")]
        repository.main([*flags, "--bucket", "8", "--bucket", "16"])
    network = folder / "repository/models/lite_network"
    if not (HOME / "backends/onnxruntime").is_dir():
        config = (network / "config.pbtxt").read_text()
        (network / "config.pbtxt").write_text(config.replace('"onnxruntime"', '"python"'))
        (network / "1/model.py").write_text(ONNX_STAND_IN)
    server = Triton(folder / "repository", folder / "log")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=60)


@pytest.fixture(scope="module")
def expected(tiny_files, tiny_build) -> list[str]:
    with create("ort", tiny_files, "fp32", "cpu", build_dir=tiny_build, threads=1) as runner:
        translator = LineTranslator(runner, Tokenizer.from_files(tiny_files))
        return [translation.text for translation in translator.translate(SENTENCES)]


def test_translations_are_the_translators(triton, expected):
    assert triton.translate(SENTENCES) == expected
    assert [triton.translate([sentence])[0] for sentence in SENTENCES] == expected


def test_mixed_lengths_fill_batches(triton, expected):
    sentences, batches = triton.counts()
    assert triton.translate(SENTENCES * 8) == expected * 8  # 32 of up to 8 tokens, 8 of up to 16
    assert triton.counts() == (sentences + 40, batches + 3)


@pytest.mark.parametrize(
    ("sentence", "reason"), [(" ", "the text is empty"), ("one " * 30, "this server takes 24")]
)
def test_a_refused_request_gets_its_reason(triton, sentence, reason):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        triton.translate([sentence])
    assert reason in json.load(refusal.value)["error"]


def test_the_server_has_read_what_was_configured(triton):
    config = triton.get("/v2/models/lite_network/config")
    warm = [entry["inputs"]["src_tokens"]["dims"] for entry in config["model_warmup"]]
    assert warm == [["8"], ["16"], ["24"]] or warm == [[8], [16], [24]]
    assert config["dynamic_batching"]["preferred_batch_size"] == [8, 16]
    config = triton.get("/v2/models/lite_translate/config")
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 1000
    assert config["max_batch_size"] == 64


def test_client_over_grpc(triton, expected, tmp_path):
    python = PYTHON or "python3"
    if subprocess.run(
        [python, "-c", "import tritonclient.grpc.aio"], capture_output=True
    ).returncode:
        pytest.skip(f"no tritonclient[grpc] for {python}")
    command = [python, "-m", "trt_code.triton.client", "--url", f"127.0.0.1:{triton.grpc}"]
    measured = tmp_path / "load.json"
    reply = subprocess.run(
        [*command, "--concurrency", "16", "--measure", measured],
        input="\n".join(SENTENCES * 20) + "\n",
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert reply.stdout.splitlines() == expected * 20, reply.stderr
    assert json.loads(measured.read_text())["sentences"] == 100
