"""Triton's Python backend: sentences in, token ids out, padded to a length bucket.

Runs inside Triton from its own folder of the model repository, where the tokenizer's modules and files
lie beside it. A request that cannot be encoded gets the reason; the others of its batch go on.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from train_model.cli import UserError
from train_model.data.dictionary import PAD, Dictionary
from train_model.data.tokenizer import Tokenizer


class TritonPythonModel:
    """TEXT [n, 1] UTF-8 -> src_tokens [n, bucket] int64, the bucket that the longest fits in."""

    def initialize(self, args):
        folder = Path(__file__).parent
        dictionary = Dictionary.load(folder / "dict.src.txt")
        self._tokenizer = Tokenizer(folder / "bpe.codes", dictionary, dictionary)
        parameters = json.loads(args["model_config"])["parameters"]
        self._buckets = [int(size) for size in parameters["buckets"]["string_value"].split(",")]

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        try:
            tokens = self._encode(pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy())
        except (UserError, UnicodeDecodeError) as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("src_tokens", tokens)])

    def _encode(self, texts):
        rows = [self._tokenizer.encode(text.decode()) for text in texts[:, 0]]
        longest = max(map(len, rows))
        bucket = next((size for size in self._buckets if size >= longest), None)
        if bucket is None:
            raise UserError(
                f"a sentence has {longest} tokens and this server takes {self._buckets[-1]}; split it"
            )
        tokens = np.full((len(rows), bucket), PAD, np.int64)
        for target, row in zip(tokens, rows, strict=True):
            target[: len(row)] = row
        return tokens
