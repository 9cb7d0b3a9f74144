"""Triton's Python backend: the network's token ids in, translations out. See ``preprocess.py``."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from train_model.data.dictionary import Dictionary
from train_model.data.tokenizer import Tokenizer


class TritonPythonModel:
    """output_tokens [n, canvas] int64 -> TRANSLATION [n, 1] UTF-8."""

    def initialize(self, args):
        folder = Path(__file__).parent
        dictionary = Dictionary.load(folder / "dict.tgt.txt")
        self._tokenizer = Tokenizer(folder / "bpe.codes", dictionary, dictionary)

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        tokens = pb_utils.get_input_tensor_by_name(request, "output_tokens").as_numpy()
        texts = [[self._tokenizer.decode(row).encode()] for row in tokens]
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("TRANSLATION", np.array(texts, dtype=object))]
        )
