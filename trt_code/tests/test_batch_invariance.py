"""Where padding is masked, no runner lets a sentence's neighbours or its padding change what it gives."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from onnx_export import export
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.multibranch_config import MultibranchConfig
from train_model.models.transformer_multibranch_v2 import TransformerMultibranch
from train_model.models.zoo import ModelFiles
from trt_code.batching import PAD, pad
from trt_code.runners import Output, create

BATCHES = 12
LONGEST = 12
VOCABULARY = 30  # smaller than either network's, so that one range of words serves both
SCORE_TOLERANCE = 1e-5
FP16_SCORE_TOLERANCE = 2e-2


@pytest.fixture(scope="module")
def one_pass(tiny_files, tmp_path_factory):
    """The small non-autoregressive network with biases; at zero, as they start, they hide a leak."""
    loaded = load_checkpoint(tiny_files.checkpoint)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) / 10)
    return saved("one-pass", loaded.model, loaded.config, tmp_path_factory)


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    """A small Lite Transformer, its weights so small that what it says follows its source."""
    config = MultibranchConfig(
        src_vocab=40,
        tgt_vocab=48,
        encoder_branch_type=("attn:1:16:2", "dynamic:default:16:4"),
        decoder_branch_type=("attn:1:16:2", "dynamic:default:16:4"),
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=32,
        encoder_layers=2,
        decoder_ffn_embed_dim=32,
        decoder_layers=2,
        encoder_kernel_size_list=(3, 7),
        decoder_kernel_size_list=(3, 7),
        decoder_attention_heads=2,
        conv_linear=True,
        max_source_positions=24,
        max_target_positions=16,
        padding_policy="masked",
    )
    torch.manual_seed(5)
    model = TransformerMultibranch(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 10)
            else:
                torch.nn.init.normal_(parameter, std=0.15)
    return saved("greedy", model, config, tmp_path_factory, autoregressive=True)


def saved(name, model, config, tmp_path_factory, autoregressive=False):
    files = ModelFiles(
        name, tmp_path_factory.mktemp(name) / "checkpoint.pt", autoregressive=autoregressive
    )
    save_checkpoint(files.checkpoint, model, config)
    return files


@pytest.fixture(scope="module")
def build_dir(one_pass, greedy, tmp_path_factory):
    """A folder that holds both networks' graphs."""
    folder = tmp_path_factory.mktemp("build")
    for files in (one_pass, greedy):
        output = folder / files.name / "model.onnx"
        export.main(["--checkpoint", str(files.checkpoint), "--output", str(output)])
    return folder


@pytest.mark.parametrize("network", ["one_pass", "greedy"])
@pytest.mark.parametrize("runner_name", ["torch", "ort"])
def test_a_sentence_gives_the_same_alone_and_in_any_company(network, runner_name, request):
    files = request.getfixturevalue(network)
    options = {"threads": 1, "beam": 1}
    if runner_name == "ort":
        options["build_dir"] = request.getfixturevalue("build_dir")
    with create(runner_name, files, "fp32", "cpu", **options) as runner:
        assert_invariant(runner)


ON_GPU = [
    ("one_pass", "torch"),
    ("one_pass", "cuda-graph"),
    ("one_pass", "cuda-graph-full"),
    ("greedy", "torch"),
    ("greedy", "cuda-graph"),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize(("network", "runner_name"), ON_GPU)
def test_fp32_on_a_gpu_gives_the_same_in_any_company(network, runner_name, request):
    files = request.getfixturevalue(network)
    with create(runner_name, files, "fp32", "cuda", beam=1) as runner:
        assert_invariant(runner)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize(("network", "runner_name"), ON_GPU)
def test_fp16_on_a_gpu_gives_nearly_the_same_in_any_company(network, runner_name, request):
    """Products are cut differently for other batches, and FP16 rounds what they give.

    Two words that are equally good within that rounding may change places; few are.
    """
    files = request.getfixturevalue(network)
    with create(runner_name, files, "fp16", "cuda", beam=1) as runner:
        compared = list(pairs(runner))
    same = [pair for pair in compared if pair.tokens_agree()]
    worst = max(pair.score_difference() for pair in same)
    print(f"{network} {runner_name} fp16: {len(same)} of {len(compared)} alike, {worst:.2e}")
    assert len(same) >= 0.95 * len(compared)
    assert worst <= FP16_SCORE_TOLERANCE


@pytest.mark.parametrize("network", ["one_pass", "greedy"])
def test_the_upstream_policy_lets_padding_in(network, request, tmp_path):
    """The same weights with the original's policy fail the test above (doc/reliability.md)."""
    files = request.getfixturevalue(network)
    loaded = load_checkpoint(files.checkpoint)
    upstream = dataclasses.replace(loaded.config, padding_policy="upstream")
    files = dataclasses.replace(files, checkpoint=tmp_path / "checkpoint.pt")
    save_checkpoint(files.checkpoint, loaded.model, upstream)
    with create("torch", files, "fp32", "cpu", beam=1) as runner, pytest.raises(AssertionError):
        assert_invariant(runner)


@dataclasses.dataclass(frozen=True)
class Pair:
    """What a sentence gave in a batch and alone, each [T] as far as it goes alone.

    Attributes:
        behind: what the batch gave behind the sentence's end.
    """

    together: Output
    alone: Output
    behind: np.ndarray

    def tokens_agree(self) -> bool:
        return np.array_equal(self.together.tokens, self.alone.tokens)

    def score_difference(self) -> float:
        return float(np.abs(self.together.scores - self.alone.scores).max())


def pairs(runner) -> Iterator[Pair]:
    """Every row of random batches beside the same sentence alone, without padding.

    A canvas widens with its batch; what is behind the sentence is padding.
    """
    random = np.random.default_rng(7)
    for _ in range(BATCHES):
        lengths = random.integers(1, LONGEST + 1, size=random.integers(1, 6))
        rows = [[0, *random.integers(4, VOCABULARY, size=length), 2] for length in lengths]
        together = runner.run(pad(rows, width=2 + max(lengths) + random.integers(0, 8)))
        for i, row in enumerate(rows):
            alone = runner.run(pad([row]))
            length = int((alone.tokens[0] != PAD).sum())
            yield Pair(
                Output(together.tokens[i, :length], together.scores[i, :length]),
                Output(alone.tokens[0, :length], alone.scores[0, :length]),
                together.tokens[i, length:],
            )


def assert_invariant(runner) -> None:
    """The same tokens, and the same scores but for their rounding."""
    translations = set()
    for pair in pairs(runner):
        alone = pair.alone
        translations.add(tuple(alone.tokens))
        np.testing.assert_array_equal(pair.together.tokens, alone.tokens)
        assert (pair.behind == PAD).all()
        # a score of the CRF is the difference of two path scores, each rounded at its own size
        rounding = 4 * np.finfo(np.float32).eps * np.abs(alone.scores.cumsum()).max()
        assert pair.score_difference() <= SCORE_TOLERANCE + rounding
    assert len(translations) > BATCHES, "the network says the same whatever it is given"
