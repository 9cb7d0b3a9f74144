"""The ``config.pbtxt`` of each model in the repository, as mappings for ``text_format.dump``.

    TEXT -> lite_translate -> TRANSLATION
                 | batches of src_tokens, by length
            lite_network

``lite_translate`` (translate.py) is what clients call; it encodes, calls the network, and decodes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train_model.models.architectures import Family
from train_model.models.signatures import OUTPUT_SCORES, OUTPUT_TOKENS, SRC_TOKENS
from trt_code.triton.text_format import Enum

NETWORK, TRANSLATE = "lite_network", "lite_translate"
GATHERED = 64
"""Least batch size of a text process: enough sentences for batches of several lengths."""


@dataclass(frozen=True)
class Serving:
    """Settings with which the network is served.

    Attributes:
        buckets: source lengths that requests are padded to, ascending; the last is the longest.
        max_batch: sentences in one batch of the network.
        max_delay_us: how long a request may wait to be gathered with others, in microseconds.
        instances: copies of the network per GPU (TensorRT) or per machine (ONNX Runtime).
        text_instances: processes that encode and decode, each one batch of requests at a time.
        profiles: optimisation profiles of the plan; 0 for ONNX Runtime.
        threads: CPU threads of one ONNX Runtime instance.
        family: of the network; others than "one-pass" run in Triton's Python backend.
        beam, len_penalty: of an autoregressive network's search.
        max_iter: an iterative network's passes after the first one; None for the network's own number.
    """

    buckets: Sequence[int]
    max_batch: int
    max_delay_us: int = 1000
    instances: int = 1
    text_instances: int = 2
    profiles: int = 0
    threads: int = 0
    family: Family = "one-pass"
    beam: int = 1
    len_penalty: float = 1.0
    max_iter: int | None = None

    @property
    def batches(self) -> list[int]:
        """Batch sizes worth a CUDA graph: powers of two, and the largest."""
        powers = [1 << exponent for exponent in range(self.max_batch.bit_length())]
        return sorted({*powers, self.max_batch})


def _tensor(name: str, kind: str, dims: int) -> dict[str, Any]:
    return {"name": name, "data_type": Enum(kind), "dims": [dims]}


SOURCE = _tensor(SRC_TOKENS, "TYPE_INT64", -1)
TOKENS = _tensor(OUTPUT_TOKENS, "TYPE_INT64", -1)
SCORES = _tensor(OUTPUT_SCORES, "TYPE_FP32", -1)
TEXT = _tensor("TEXT", "TYPE_STRING", 1)
TRANSLATION = _tensor("TRANSLATION", "TYPE_STRING", 1)
WARNING = _tensor("WARNING", "TYPE_STRING", 1)  # empty for a sentence like those of the training


def network(serving: Serving) -> dict[str, Any]:
    """Return the network's configuration: a TensorRT plan if it has profiles, else ONNX on the CPU."""
    common = {
        "name": NETWORK,
        "max_batch_size": serving.max_batch,
        "input": [SOURCE],
        "output": [TOKENS, SCORES],
    }
    if serving.family != "one-pass":
        return common | _python(serving)
    common["dynamic_batching"] = {
        "preferred_batch_size": [size for size in serving.batches if size >= 8]
        or [serving.max_batch],
    }
    return common | (_tensorrt(serving) if serving.profiles else _onnxruntime(serving))


def _tensorrt(serving: Serving) -> dict[str, Any]:
    graphs = [
        {"batch_size": batch, "input": {"key": SOURCE["name"], "value": {"dim": [length]}}}
        for length in serving.buckets
        for batch in serving.batches
    ]
    return {
        "platform": "tensorrt_plan",
        "instance_group": [
            {
                "count": serving.instances,
                "kind": Enum("KIND_GPU"),
                "profile": [str(index) for index in range(serving.profiles)],
            }
        ],
        "optimization": {"cuda": {"graphs": True, "graph_spec": graphs}},
        "model_warmup": _warm_up(serving),
    }


def _onnxruntime(serving: Serving) -> dict[str, Any]:
    return {
        "backend": "onnxruntime",
        "instance_group": [{"count": serving.instances, "kind": Enum("KIND_CPU")}],
        "parameters": _parameters({"intra_op_thread_count": str(serving.threads)}),
        "model_warmup": _warm_up(serving),
    }


def _python(serving: Serving) -> dict[str, Any]:
    return {
        "backend": "python",
        "instance_group": [{"count": serving.instances, "kind": Enum("KIND_CPU")}],
        "parameters": _parameters(
            {
                "family": serving.family,
                "threads": str(serving.threads),
                "beam": str(serving.beam),
                "len_penalty": str(serving.len_penalty),
                "max_iter": json.dumps(serving.max_iter),
            }
        ),
    }


def _parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _warm_up(serving: Serving) -> list[dict[str, Any]]:
    """Warm up with a full batch per bucket, all zeros (bos), since random tokens may not exist."""
    return [
        {
            "name": f"length {length}",
            "batch_size": serving.max_batch,
            "inputs": {
                "key": SOURCE["name"],
                "value": {"data_type": SOURCE["data_type"], "dims": [length], "zero_data": True},
            },
        }
        for length in serving.buckets
    ]


def translate(serving: Serving) -> dict[str, Any]:
    """Return the configuration of the text model, which batches waiting requests of any length."""
    parameters = {
        "network": NETWORK,
        "max_batch": str(serving.max_batch),
        "buckets": ",".join(map(str, serving.buckets)),
    }
    return {
        "name": TRANSLATE,
        "backend": "python",
        "max_batch_size": max(GATHERED, serving.max_batch),
        "input": [TEXT],
        "output": [TRANSLATION, WARNING],
        "instance_group": [{"count": serving.text_instances, "kind": Enum("KIND_CPU")}],
        "parameters": _parameters(parameters),
        "dynamic_batching": {"max_queue_delay_microseconds": serving.max_delay_us},
    }
