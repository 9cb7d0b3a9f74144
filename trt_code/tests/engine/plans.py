"""A plan of the mocked TensorRT, and batches for its runner."""

from pathlib import Path

import numpy as np
from onnx import TensorProto

from trt_code import build_engine
from trt_code.tests.engine.graphs import write_graph

PLAN = Path("build/demo/model.fp16.plan")


def build(*flags, elem_type=TensorProto.INT64, plugin=None, metadata=None):
    PLAN.parent.mkdir(parents=True, exist_ok=True)
    graph = PLAN.with_suffix(".onnx")
    write_graph(graph, elem_type=elem_type, plugin=plugin, metadata=metadata)
    build_engine.main(["--onnx", str(graph), "--output", str(PLAN), *flags])


def tokens(batch, length):
    return np.arange(batch * length, dtype=np.int64).reshape(batch, length)
