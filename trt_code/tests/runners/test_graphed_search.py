"""The search of whole steps, here without a GPU and without capture, against the search of single steps."""

import numpy as np
import pytest
import torch

from train_model.model_folder import find_model
from train_model.models.beam_search import search
from train_model.models.checkpoint import load_checkpoint
from train_model.models.hypotheses import SearchOptions
from train_model.models.incremental import DecoderStep, IncrementalDecoder, SourceEncoder
from trt_code.runners.buckets import batch_bucket
from trt_code.runners.search.graphed_search import GraphedSearch, without_capture

WORDS = 300  # of the vocabulary, in the sources


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(find_model("demo-ar", "nothing-trained-here").checkpoint).model


def graphed(model, batch_size) -> GraphedSearch:
    return GraphedSearch(
        lambda: SourceEncoder(model),
        lambda beam: DecoderStep(model),
        lambda rows, room: [
            torch.zeros(shape) for shape in model.decoder.state_shapes(rows, room).values()
        ],
        model.config.tgt_vocab,
        model.config.max_target_positions,
        without_capture,
        model.config.max_source_positions,
        batch_size,
    )


@pytest.mark.parametrize("beam", [1, 3])
def test_batches_of_few_sizes_find_the_same(model, beam):
    """Copies of a sentence fill a batch; their results are not returned, and one lane serves many sizes."""
    options = SearchOptions(beam=beam, max_len_b=20)
    ours = graphed(model, batch_bucket)
    decoder = IncrementalDecoder.of(model)
    for batch in (5, 7, 8):
        src_tokens = torch.randint(4, WORDS, (batch, 9), generator=torch.manual_seed(batch))
        src_tokens[:, -1] = 2
        found, expected = ours(src_tokens, options), search(decoder, src_tokens, options)
        assert found.tokens.shape == expected.tokens.shape
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert len(ours._lanes) == 1
