"""The ``config.pbtxt`` of each model in the repository, as mappings for ``text_format.dump``.

    TEXT -> lite_preprocess -> lite_network -> lite_postprocess -> TRANSLATION

``lite_translate`` is the ensemble of the three, which is what clients call. Triton batches only requests
of one shape, so the first pads every request to a length bucket: requests of one bucket share a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trt_code.triton.text_format import Enum

PREPROCESS, NETWORK, POSTPROCESS = "lite_preprocess", "lite_network", "lite_postprocess"
TRANSLATE = "lite_translate"


@dataclass(frozen=True)
class Serving:
    """How the network is served.

    Attributes:
        buckets: source lengths that requests are padded to, ascending; the last is the longest.
        max_batch: sentences that Triton may put together.
        max_delay_us: how long a request may wait for others, in microseconds.
        instances: copies of the network a GPU (TensorRT) or machine (ONNX Runtime).
        text_instances: processes that encode, and as many that decode.
        profiles: optimisation profiles of the plan; 0 for ONNX Runtime.
        threads: CPU threads of one ONNX Runtime instance.
    """

    buckets: Sequence[int]
    max_batch: int
    max_delay_us: int = 1000
    instances: int = 1
    text_instances: int = 2
    profiles: int = 0
    threads: int = 0

    @property
    def batches(self) -> list[int]:
        """Batch sizes worth a CUDA graph and worth waiting for: powers of two, and the largest."""
        powers = [1 << exponent for exponent in range(self.max_batch.bit_length())]
        return sorted({*powers, self.max_batch})


def _tensor(name: str, kind: str, dims: int) -> dict[str, Any]:
    return {"name": name, "data_type": Enum(kind), "dims": [dims]}


SOURCE = _tensor("src_tokens", "TYPE_INT64", -1)
TOKENS = _tensor("output_tokens", "TYPE_INT64", -1)
SCORES = _tensor("output_scores", "TYPE_FP32", -1)
TEXT = _tensor("TEXT", "TYPE_STRING", 1)
TRANSLATION = _tensor("TRANSLATION", "TYPE_STRING", 1)


def network(serving: Serving) -> dict[str, Any]:
    """The network itself: a TensorRT plan where ``serving.profiles`` says so, else ONNX on the CPU."""
    common = {
        "name": NETWORK,
        "max_batch_size": serving.max_batch,
        "input": [SOURCE],
        "output": [TOKENS, SCORES],
        "dynamic_batching": {
            "preferred_batch_size": [size for size in serving.batches if size >= 8]
            or [serving.max_batch],
            "max_queue_delay_microseconds": serving.max_delay_us,
        },
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
        "parameters": [
            {
                "key": "intra_op_thread_count",
                "value": {"string_value": str(serving.threads)},
            }
        ],
        "model_warmup": _warm_up(serving),
    }


def _warm_up(serving: Serving) -> list[dict[str, Any]]:
    """One full batch a bucket before the first client. Zeros are bos: random tokens may not exist."""
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


def preprocess(serving: Serving) -> dict[str, Any]:
    """TEXT to src_tokens, padded to a bucket."""
    buckets = ",".join(map(str, serving.buckets))
    parameters = [{"key": "buckets", "value": {"string_value": buckets}}]
    return _python(PREPROCESS, serving, TEXT, SOURCE) | {"parameters": parameters}


def postprocess(serving: Serving) -> dict[str, Any]:
    """output_tokens to TRANSLATION."""
    return _python(POSTPROCESS, serving, TOKENS, TRANSLATION)


def _python(name: str, serving: Serving, source: dict, target: dict) -> dict[str, Any]:
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": serving.max_batch,
        "input": [source],
        "output": [target],
        "instance_group": [{"count": serving.text_instances, "kind": Enum("KIND_CPU")}],
    }


def translate(serving: Serving) -> dict[str, Any]:
    """The ensemble: a tensor goes from one model to the next by its name in ``output_map``."""
    steps = (
        (PREPROCESS, TEXT["name"], [SOURCE["name"]]),
        (NETWORK, SOURCE["name"], [TOKENS["name"]]),
        (POSTPROCESS, TOKENS["name"], [TRANSLATION["name"]]),
    )
    return {
        "name": TRANSLATE,
        "platform": "ensemble",
        "max_batch_size": serving.max_batch,
        "input": [TEXT],
        "output": [TRANSLATION],
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": model,
                    "model_version": -1,
                    "input_map": {"key": source, "value": source},
                    "output_map": [{"key": name, "value": name} for name in targets],
                }
                for model, source, targets in steps
            ]
        },
    }
