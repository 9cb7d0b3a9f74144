"""Triton's Python backend: a network that runs several times per translation, in ONNX Runtime on the CPU.

Runs inside Triton from its own folder of the model repository, which also holds the network's two files and
the modules of the search. An autoregressive network takes one step per token; an iterative one improves its
output.
"""

import functools
import json
from pathlib import Path

import triton_python_backend_utils as pb_utils

from onnx_export.paths import half_path
from onnx_export.session import open_session
from onnx_export.split_session import SplitSession
from onnx_export.step_session import StepSession
from train_model.cli import UserError, one_line
from train_model.models.hypotheses import SearchOptions, without_bos
from train_model.models.numpy_search import search
from train_model.models.signatures import OUTPUT_SCORES, OUTPUT_TOKENS, SRC_TOKENS

OUTPUTS = (OUTPUT_TOKENS, OUTPUT_SCORES)


class TritonPythonModel:
    """src_tokens [B, S] int64 -> output_tokens [B, T] int64 and output_scores [B, T] float32."""

    def initialize(self, args):
        path = Path(__file__).with_name("model.onnx")
        given = json.loads(args["model_config"])["parameters"]
        value = {name: entry["string_value"] for name, entry in given.items()}
        threads = int(value["threads"])
        if value["family"] == "iterative":
            halves = [
                open_session(file, threads=threads, trusted=True)
                for file in (half_path(path, "encoder"), path)
            ]
            session = SplitSession(*halves, path, json.loads(value["max_iter"]))
            self._run = lambda src_tokens: session.run(OUTPUTS, {SRC_TOKENS: src_tokens})
        else:
            options = SearchOptions(
                beam=int(value["beam"]), len_penalty=float(value["len_penalty"])
            )
            self._run = functools.partial(_best, StepSession(path, threads, trusted=True), options)

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        """Translate one request's batch. An error is its answer, and leaves the other requests alone."""
        try:
            src_tokens = pb_utils.get_input_tensor_by_name(request, SRC_TOKENS).as_numpy()
            results = self._run(src_tokens)
        except Exception as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(one_line(str(error))))
        return pb_utils.InferenceResponse(list(map(pb_utils.Tensor, OUTPUTS, results)))


def _best(steps, options, src_tokens):
    found = search(steps, without_bos(src_tokens), options)
    if not found.counts.all():  # NaN scores: no hypothesis is above another
        raise UserError("the network gives scores that are not numbers; make its files again")
    return found.best()
