"""The committed Lite Transformer translates the demo's sentences, and fairseq's generator gives the same."""

import pytest
import torch

from train_model.cli import UserError
from train_model.data.tokenizer import Tokenizer
from train_model.model_folder import find_model
from trt_code.evaluate import read_split, score
from trt_code.runners import create
from trt_code.runners.search import LEN_PENALTY
from trt_code.text.translator import LineTranslator

SENTENCES = 100


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    try:
        return find_model("demo-ar", tmp_path_factory.mktemp("nothing-trained-here"))
    except UserError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def split(files):
    return [side[:SENTENCES] for side in read_split(files, "test")]


@pytest.mark.parametrize(("beam", "exact", "bleu"), [(1, 99, 99), (4, 92, 97)])
def test_translations_are_good(files, split, beam, exact, bleu):
    tokenizer = Tokenizer.from_files(files)
    with create("torch", files, "fp32", "cpu", beam=beam) as runner:
        translations = LineTranslator(runner, tokenizer).translate(split[0])
    found = score(translations, split[1], tokenizer)
    assert found["exact_match"] >= exact
    assert found["bleu"] >= bleu


@pytest.mark.fairseq
@pytest.mark.parametrize("beam", [1, 4])
def test_fairseqs_generator_finds_the_same(files, split, beam):
    pytest.importorskip("fairseq_cli", reason="fairseq is not installed")
    from train_model import fairseq_compat

    fairseq_compat.prepare()
    from fairseq.data import Dictionary
    from fairseq.sequence_generator import SequenceGenerator

    from train_model.fairseq_plugin.transformer_multibranch_v2 import TransformerMultibranchModel
    from train_model.models.checkpoint import load_checkpoint
    from trt_code.text import batching

    loaded = load_checkpoint(files.checkpoint)
    model = TransformerMultibranchModel(loaded.config).eval()
    model.load_state_dict(loaded.model.state_dict())
    generator = SequenceGenerator(
        [model], Dictionary.load(str(files.tgt_dict)), beam_size=beam, len_penalty=LEN_PENALTY
    )
    tokenizer = Tokenizer.from_files(files)
    source = batching.pad([tokenizer.encode(line) for line in split[0][:24]])
    with create("torch", files, "fp32", "cpu", beam=beam) as runner:
        ours = runner.run(source)
    bare = torch.from_numpy(source[:, 1:])  # without the bos that the tokenizer adds
    batch = {"net_input": {"src_tokens": bare, "src_lengths": bare.ne(1).sum(1)}}
    for theirs, row in zip(generator.generate([model], batch), ours.tokens, strict=True):
        tokens = theirs[0]["tokens"].tolist()
        assert row[1 : 1 + len(tokens)].tolist() == tokens
        assert (row[1 + len(tokens) :] == batching.PAD).all()
