"""A mock of Triton: ``triton_python_backend_utils`` and the ensemble, enough to run a repository here.

No Triton is involved. The Python models are loaded from the repository's own files; the network runs in
ONNX Runtime from the repository's model.onnx; tensors go from step to step as the ensemble's config.pbtxt
says, read with tritonclient's own schema.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format

from trt_code.tests.wheels import fetch_wheel


def model_config(path: Path):
    """Parse a config.pbtxt with the schema that tritonclient ships; unknown fields fail."""
    return text_format.Parse(path.read_text(), _schema().ModelConfig())


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
    pass


class InferenceResponse:
    def __init__(self, output_tensors, error=None):
        self.tensors, self.error = output_tensors, error


BACKEND_UTILS = SimpleNamespace(
    Tensor=Tensor,
    TritonError=TritonError,
    InferenceResponse=InferenceResponse,
    get_input_tensor_by_name=lambda request, name: request[name],
)


class Server:
    """Runs ``lite_translate`` of a repository, one batch at a time."""

    def __init__(self, models: Path, monkeypatch):
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", BACKEND_UTILS)
        self._models = models
        self.configs = {
            path.parent.name: model_config(path) for path in models.glob("*/config.pbtxt")
        }
        self._python = {
            name: self._load(name) for name, c in self.configs.items() if c.backend == "python"
        }
        network = models / "lite_network/1/model.onnx"
        self._network = onnxruntime.InferenceSession(network)
        self.network_shapes: list[tuple[int, ...]] = []

    def _load(self, name: str):
        path = self._models / name / "1/model.py"
        spec = importlib.util.spec_from_file_location(f"triton_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = json_format.MessageToDict(self.configs[name], preserving_proto_field_name=True)
        model.initialize({"model_config": json.dumps(config)})
        return model

    def translate(self, *requests: list[str]) -> list[list[str] | str]:
        """Each request's translations, or the message it was refused with."""
        return [self._run(np.array([[t.encode()] for t in texts], object)) for texts in requests]

    def _run(self, texts: np.ndarray) -> list[str] | str:
        tensors = {self.configs["lite_translate"].input[0].name: texts}
        for step in self.configs["lite_translate"].ensemble_scheduling.step:
            inputs = {theirs: tensors[ours] for theirs, ours in step.input_map.items()}
            if step.model_name == "lite_network":
                names = list(step.output_map)
                self.network_shapes.append(inputs["src_tokens"].shape)
                outputs = dict(zip(names, self._network.run(names, inputs), strict=True))
            else:
                request = {name: Tensor(name, array) for name, array in inputs.items()}
                (response,) = self._python[step.model_name].execute([request])
                if response.error:
                    return str(response.error)
                outputs = {tensor.name(): tensor.as_numpy() for tensor in response.tensors}
            tensors |= {ours: outputs[theirs] for theirs, ours in step.output_map.items()}
        return [text.decode() for text in tensors["TRANSLATION"][:, 0]]
