"""A mock of Triton: ``triton_python_backend_utils``, enough to run a repository here.

No Triton is involved (test_triton_server.py has one). The Python model is loaded from the repository's own
files. The network that it calls runs in ONNX Runtime from the repository's model.onnx, or is also a Python
model. Its inputs and outputs are those of its config.pbtxt, read with tritonclient's own schema.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format

from trt_code.tests.repository.wheels import fetch_wheel


def model_config(path: Path):
    """Parse a config.pbtxt with the schema that tritonclient ships; unknown fields fail."""
    return text_format.Parse(path.read_text(), _schema().ModelConfig())


def run_with(version: Path, code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run Python code in ``folder``, with a model's ``version`` folder on the path, as Triton has it."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(version), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )


def _schema() -> ModuleType:
    """tritonclient's generated module, loaded from its wheel: the package pins an older protobuf."""
    name = "model_config_pb2"
    if name not in sys.modules:
        wheel = fetch_wheel("tritonclient==2.73.0")
        spec = importlib.util.spec_from_file_location(name, wheel / f"tritonclient/grpc/{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class TritonError(Exception):
    def message(self):
        return str(self)


class InferenceResponse:
    def __init__(self, output_tensors, error=None):
        self.tensors, self._error = {t.name(): t for t in output_tensors}, error

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


class Server:
    """Runs ``lite_translate`` of a repository; one call of ``execute`` gets several requests.

    Attributes:
        network_shapes: the shapes of the batches that the network got.
        network_error: the network's answer instead of a result, if any.
        change: changes an output of the network; takes its name and its array.
    """

    def __init__(self, models: Path, monkeypatch):
        self._models = models
        self.configs = {
            path.parent.name: model_config(path) for path in models.glob("*/config.pbtxt")
        }
        utils = SimpleNamespace(
            Tensor=Tensor,
            TritonError=TritonError,
            InferenceResponse=InferenceResponse,
            InferenceRequest=self._request,
            PreferredMemory=lambda kind, device: (kind, device),
            TRITONSERVER_MEMORY_CPU="cpu",
            get_input_tensor_by_name=lambda request, name: request[name],
            get_output_tensor_by_name=lambda response, name: response.tensors[name],
        )
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
        if self.configs["lite_network"].backend == "python":
            self._network = self._load("lite_network")
        else:
            self._network = onnxruntime.InferenceSession(models / "lite_network/1/model.onnx")
        self._model = self._load("lite_translate")
        self.network_shapes: list[tuple[int, ...]] = []
        self.network_error: str | None = None
        self.change = lambda name, output: output

    def _load(self, name: str):
        path = self._models / name / "1/model.py"
        spec = importlib.util.spec_from_file_location(f"triton_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = json_format.MessageToDict(self.configs[name], preserving_proto_field_name=True)
        model.initialize({"model_config": json.dumps(config)})
        return model

    def _request(self, model_name, requested_output_names, inputs, preferred_memory):
        """A request of the model to Triton, checked against the requested model's configuration."""
        config = self.configs[model_name]
        assert preferred_memory == ("cpu", 0)  # the plan's outputs would be on the GPU
        assert set(requested_output_names) <= {tensor.name for tensor in config.output}
        assert [tensor.name() for tensor in inputs] == [tensor.name for tensor in config.input]
        (tokens,) = (tensor.as_numpy() for tensor in inputs)
        assert len(tokens) <= config.max_batch_size

        async def async_exec():
            if self.network_error:
                return InferenceResponse([], TritonError(self.network_error))
            self.network_shapes.append(tokens.shape)
            if config.backend == "python":
                return self._network.execute([{inputs[0].name(): inputs[0]}])[0]
            outputs = self._network.run(requested_output_names, {inputs[0].name(): tokens})
            outputs = list(map(self.change, requested_output_names, outputs))
            return InferenceResponse(list(map(Tensor, requested_output_names, outputs)))

        return SimpleNamespace(async_exec=async_exec)

    def translate(self, *requests: list[str]) -> list[list[str] | str]:
        """Return each request's translations, or the message of its refusal."""
        batches = [np.array([[t.encode()] for t in texts], object) for texts in requests]
        return self.answer(*batches)

    def answer(self, *batches: np.ndarray, output: int = 0) -> list[list[str] | str]:
        """Do the same for requests of any shape and content, or for another output of the text model."""
        config = self.configs["lite_translate"]
        given = [{config.input[0].name: Tensor(config.input[0].name, batch)} for batch in batches]
        responses = asyncio.run(self._model.execute(given))
        return [self._read(response, config.output[output].name) for response in responses]

    @staticmethod
    def _read(response: InferenceResponse, name: str) -> list[str] | str:
        if response.has_error():
            return response.error().message()
        return [text.decode() for text in response.tensors[name].as_numpy()[:, 0]]
