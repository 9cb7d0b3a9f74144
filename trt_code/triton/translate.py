"""Triton's Python backend: translates sentences with batched calls of the network.

Runs inside Triton from its own folder of the model repository, which also holds the tokenizer's modules and
files. It sorts the requests of one call into length buckets, because Triton's own batcher ends a batch when
the next request in the queue has another length. A request that cannot be translated gets the reason; the
others go on.
"""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from train_model.cli import UserError, one_line
from train_model.data.dictionary import PAD, Dictionary
from train_model.data.text import TextOptions, TrainingText
from train_model.data.tokenizer import Tokenizer
from train_model.models.signatures import OUTPUT_SCORES, OUTPUT_TOKENS, SRC_TOKENS


@dataclass
class Sentence:
    """A sentence in work: its token ids, then its translation or the reason for a refusal.

    ``warning`` says why the translation may be wrong: the sentence is unlike those of the training.
    """

    ids: list[int]
    translation: str = ""
    error: str = ""
    warning: str = ""


class TritonPythonModel:
    """TEXT [n, 1] UTF-8 -> TRANSLATION [n, 1] UTF-8, WARNING [n, 1] UTF-8."""

    def initialize(self, args):
        folder = Path(__file__).parent
        dictionaries = [Dictionary.load(folder / f"dict.{side}.txt") for side in ("src", "tgt")]
        described = json.loads((folder / "text.json").read_text(encoding="utf-8"))
        text = TextOptions.from_mapping(described["text"], folder)
        self._tokenizer = Tokenizer(text, *dictionaries, tuple(described["languages"]))
        self._training_text = TrainingText(text)
        parameters = json.loads(args["model_config"])["parameters"]
        self._network = parameters["network"]["string_value"]
        self._max_batch = int(parameters["max_batch"]["string_value"])
        self._buckets = [int(size) for size in parameters["buckets"]["string_value"].split(",")]

    async def execute(self, requests):
        asked = [self._read(request) for request in requests]
        buckets = defaultdict(list)
        for sentence in (sentence for sentences in asked for sentence in sentences):
            if not sentence.error:
                length = next(size for size in self._buckets if size >= len(sentence.ids))
                buckets[length].append(sentence)
        await asyncio.gather(
            *(
                self._translate(sentences[first : first + self._max_batch], length)
                for length, sentences in buckets.items()
                for first in range(0, len(sentences), self._max_batch)
            )
        )
        return [_response(sentences) for sentences in asked]

    def _read(self, request):
        """Return the sentences of one request. Its content must not make other requests fail."""
        try:
            rows = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            if rows.ndim != 2 or rows.shape[1] != 1 or not len(rows):
                raise UserError(f"TEXT is [sentences, 1], not {list(rows.shape)}")
            return [self._encode(text) for text in rows[:, 0]]
        except UserError as error:
            return [Sentence([], error=str(error))]
        except Exception as error:
            return [Sentence([], error=f"the request cannot be read: {one_line(repr(error))}")]

    def _encode(self, text):
        longest = self._buckets[-1]
        try:
            sentence = text.decode()
            ids = self._tokenizer.encode(sentence, longest)
        except UserError as error:
            return Sentence([], error=str(error))
        except UnicodeDecodeError:
            return Sentence([], error="the text is not UTF-8")
        if len(ids) > longest:
            error = f"a sentence has {len(ids)} tokens and this server takes {longest}; split it"
            return Sentence([], error=error)
        return Sentence(ids, warning=self._training_text.warning(sentence, len(ids)))

    async def _translate(self, batch, length):
        """Give each sentence of a batch its translation. What goes wrong concerns this batch only."""
        try:
            await self._run(batch, length)
        except Exception as error:
            for sentence in batch:
                sentence.error = f"the network's answer cannot be read: {one_line(repr(error))}"

    async def _run(self, batch, length):
        """Translate a batch, padded to ``length`` tokens for the network."""
        tokens = np.full((len(batch), length), PAD, np.int64)
        for row, sentence in zip(tokens, batch, strict=True):
            row[: len(sentence.ids)] = sentence.ids
        request = pb_utils.InferenceRequest(
            model_name=self._network,
            requested_output_names=[OUTPUT_TOKENS, OUTPUT_SCORES],
            inputs=[pb_utils.Tensor(SRC_TOKENS, tokens)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        reply = await request.async_exec()
        if reply.has_error():
            for sentence in batch:
                sentence.error = reply.error().message()
            return
        rows, scores = (
            pb_utils.get_output_tensor_by_name(reply, name).as_numpy()
            for name in (OUTPUT_TOKENS, OUTPUT_SCORES)
        )
        for sentence, row, numbers in zip(batch, rows, scores, strict=True):
            try:
                if not np.isfinite(numbers).all():
                    raise UserError("the network gives scores that are infinite or not numbers")
                sentence.translation = self._tokenizer.decode(row)
            except UserError as error:
                sentence.error = str(error)


def _response(sentences):
    for sentence in sentences:
        if sentence.error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(sentence.error))
    texts = {
        "TRANSLATION": [[sentence.translation.encode()] for sentence in sentences],
        "WARNING": [[sentence.warning.encode()] for sentence in sentences],
    }
    outputs = [pb_utils.Tensor(name, np.array(rows, object)) for name, rows in texts.items()]
    return pb_utils.InferenceResponse(outputs)
