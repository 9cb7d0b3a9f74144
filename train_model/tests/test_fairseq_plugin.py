"""The network inside fairseq, against fairseq's own modules, model, criterion and generator."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from train_model.tests.networks import ONE_PASS

pytestmark = [pytest.mark.fairseq, pytest.mark.usefixtures("plugin")]
SIZE = 40


@pytest.fixture(scope="module")
def dictionary():
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for index in range(SIZE - len(dictionary)):
        dictionary.add_symbol(f"w{index}")
    return dictionary


@pytest.fixture
def task(dictionary):
    return SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)


def build(task, **options):
    """A small network through fairseq's own parser and registry, in double precision."""
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

    sizes = {"encoder_embed_dim": 16, "decoder_embed_dim": 16, "crf_beam_approx": 8}
    kernels = {"encoder_kernel_size_list": [3, 5], "decoder_kernel_size_list": [3, 5]}
    dropout = {"dropout": 0.0, "input_dropout": 0.0}
    losses = {"label_smoothing": 0.1, "word_ins_loss_factor": 0.5, "length_loss_factor": 0.3}
    args = Namespace(**ONE_PASS | sizes | kernels | dropout | losses | options)
    ARCH_CONFIG_REGISTRY["conv_crf_transformer"](args)
    torch.manual_seed(3)
    return ARCH_MODEL_REGISTRY["conv_crf_transformer"].build_model(args, task).double()


def batch(seed: int = 0):
    """Sources, full-mask canvases and targets of different lengths, right-padded."""
    generator = torch.Generator().manual_seed(seed)
    sources, targets = (
        [torch.randint(4, SIZE, (n,), generator=generator) for n in lengths]
        for lengths in ((9, 5, 7), (8, 10, 3))
    )
    pad = torch.nn.utils.rnn.pad_sequence
    ends = [
        [torch.cat([torch.tensor([0]), row, torch.tensor([2])]) for row in rows]
        for rows in (sources, targets)
    ]
    src, tgt = (pad(rows, batch_first=True, padding_value=1) for rows in ends)
    canvas = torch.where(tgt > 3, 3, tgt)
    return {
        "net_input": {"src_tokens": src, "src_lengths": src.ne(1).sum(1)},
        "target": tgt,
        "prev_target": canvas,
        "nsentences": len(src),
        "ntokens": int(tgt.ne(1).sum()),
    }


def gradients(model, loss):
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def assert_same_gradients(ours, theirs):
    for name, gradient in ours.items():
        if gradient is None:
            assert theirs[name] is None, name
        else:
            torch.testing.assert_close(
                gradient,
                theirs[name],
                rtol=1e-5,
                atol=3e-6,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def fairseq_outputs(model, sample, pred_length_offset):
    """``NACRFTransformerModel.forward`` of fairseq itself, around our encoder's and decoder's outputs."""
    from fairseq.models.nat import NATransformerDecoder
    from fairseq.models.nat.nat_crf_transformer import NACRFTransformerModel
    from fairseq.modules import DynamicCRF

    network = model
    crf = DynamicCRF(SIZE, network.config.crf_lowrank_approx, network.config.crf_beam_approx)
    crf.E1, crf.E2 = network.crf_layer.E1, network.crf_layer.E2

    class Decoder:
        embed_length = network.decoder.embed_length
        sg_length_pred, padding_idx = False, 1
        ensemble_models = None
        length_loss_factor = network.config.length_loss_factor
        forward_length = NATransformerDecoder.forward_length
        forward_length_prediction = NATransformerDecoder.forward_length_prediction

        def __init__(self):
            self.pred_length_offset = pred_length_offset

        def __call__(self, normalize, prev_output_tokens, encoder_out):
            return network.decode(prev_output_tokens, encoder_out["ours"])

    def encode(src_tokens, src_lengths, **unused):
        ours = network.encode(src_tokens)
        return {
            "encoder_out": [ours.x.transpose(0, 1)],
            "encoder_padding_mask": [ours.padding_mask],
            "ours": ours,
        }

    stand_in = SimpleNamespace(
        encoder=encode,
        decoder=Decoder(),
        crf_layer=crf,
        pad=1,
        args=Namespace(
            label_smoothing=network.config.label_smoothing,
            word_ins_loss_factor=network.config.word_ins_loss_factor,
        ),
    )
    return lambda *inputs: NACRFTransformerModel.forward(stand_in, *inputs)


@pytest.mark.parametrize("pred_length_offset", [False, True])
def test_losses_and_gradients_are_those_of_nacrf_transformer(task, pred_length_offset):
    from fairseq.criterions.nat_loss import LabelSmoothedDualImitationCriterion

    model, sample = build(task, pred_length_offset=pred_length_offset), batch()
    criterion = LabelSmoothedDualImitationCriterion(task, label_smoothing=0.1)
    ours, _, ours_log = criterion(model, sample)
    reference = fairseq_outputs(model, sample, pred_length_offset)
    theirs, _, theirs_log = criterion(reference, sample)
    # fairseq sums some of its terms in single precision, also for double inputs
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0)
    assert set(ours_log) == set(theirs_log)
    for name in ("word_ins-loss", "word_crf-loss", "length-loss"):
        assert ours_log[name] == pytest.approx(theirs_log[name], rel=1e-7)
    assert_same_gradients(gradients(model, ours), gradients(model, theirs))


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("conv_type", ["dynamic", "lightweight"])
def test_convolutions_are_those_of_fairseq(task, side, conv_type):
    from fairseq.modules import DynamicConv, LightweightConv

    model = build(task, **{f"{side}_conv_type": conv_type, "conv_linear": False})
    conv = getattr(model, side).layers[1].conv
    kernel = 5
    padding = kernel // 2 if side == "encoder" else kernel - 1
    if conv_type == "dynamic":
        reference = DynamicConv(16, kernel, padding, num_heads=4, weight_softmax=True).double()
        reference.weight_linear.weight = conv.weight_linear.weight
    else:
        reference = LightweightConv(16, kernel, padding, num_heads=4, weight_softmax=True).double()
        reference.weight = conv.weight
    x = torch.randn(3, 9, 16, dtype=torch.float64, requires_grad=True)
    ours, theirs = conv(x), reference(x.transpose(0, 1).contiguous()).transpose(0, 1)
    # fairseq normalises the taps in single precision, also for double inputs
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    probe = torch.randn_like(ours)
    inputs = (x, *conv.parameters())
    for mine, other in zip(
        torch.autograd.grad((ours * probe).sum(), inputs),
        torch.autograd.grad((theirs * probe).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_iter", [0, 3])
def test_generator_gives_what_the_network_gives(task, max_iter):
    from fairseq.iterative_refinement_generator import IterativeRefinementGenerator

    from train_model.models.conv_crf_transformer import ConvCrfTransformer

    model, sample = build(task).eval(), batch()
    generator = IterativeRefinementGenerator(task.target_dictionary, max_iter=max_iter)
    found = generator.generate([model], sample)
    source = sample["net_input"]["src_tokens"]
    with torch.no_grad():
        tokens, scores = ConvCrfTransformer.forward(model, source)
        for sentence, src, row, score in zip(found, source, tokens, scores, strict=True):
            # refinement decodes its own output until it no longer changes
            for _ in range(max_iter):
                canvas = row[None]
                row, score = model.choose(model.decode(canvas, model.encode(src[None])), canvas)
                row, score = row[0], score[0]
                if torch.equal(row, canvas[0]):
                    break
            real = row.ne(1)
            assert sentence[0]["tokens"].tolist() == row[real].tolist()
            torch.testing.assert_close(
                sentence[0]["positional_scores"].double(), score[real].double()
            )


def test_glancing_shows_the_requested_share_of_the_hidden_words(plugin):
    from train_model.fairseq_plugin.glat_loss import glance

    target = batch()["target"].repeat(50, 1)
    canvas = torch.where(target > 3, 3, target)
    hidden = canvas.eq(3)
    predicted = torch.where(torch.rand(target.shape) < 0.5, target, 5)
    torch.manual_seed(1)
    for ratio in (0.0, 0.3, 0.5, 1.0):
        shown_canvas, shown = glance(canvas, predicted, target, hidden, ratio)
        wrong = (predicted.ne(target) & hidden).sum(1)
        assert shown.sum(1).tolist() == [round(ratio * int(n)) for n in wrong]
        assert not (shown & ~hidden).any()
        assert torch.equal(shown_canvas, torch.where(shown, target, canvas))
    spread = glance(canvas, predicted, target, hidden, 0.5)[1][::3].float().mean(0)
    assert (spread[1:-2][hidden[0, 1:-2]] > 0).all()  # every position is chosen at some time


def test_glat_loss_counts_hidden_words_and_all_of_the_path(task, plugin):
    from fairseq.criterions.nat_loss import LabelSmoothedDualImitationCriterion

    from train_model.fairseq_plugin.glat_loss import GlancingLoss

    model = build(task)
    criterion = GlancingLoss(task, label_smoothing=0.1)
    plain = LabelSmoothedDualImitationCriterion(task, label_smoothing=0.1)
    without, with_none = plain(model, batch())[0], criterion(model, batch())[0]
    torch.testing.assert_close(with_none, without)
    torch.manual_seed(0)
    sample = batch() | {"glancing_ratio": 0.5}
    loss, _, log = criterion(model, sample)
    canvas, target = sample["prev_target"], sample["target"]
    shown = canvas.eq(target) & target.gt(3)
    assert shown.any()
    assert log["glat_ratio"] == 0.5
    outputs = model(sample["net_input"]["src_tokens"], None, canvas, target)
    logits = outputs["word_ins"]["out"][target.ne(1) & ~shown].log_softmax(-1)
    words = -logits.gather(1, target[target.ne(1) & ~shown][:, None]).mean()
    smooth = 0.9 * words - 0.1 * logits.mean()
    length = torch.nn.functional.cross_entropy(outputs["length"]["out"], outputs["length"]["tgt"])
    expected = 0.5 * smooth + outputs["word_crf"]["loss"] + 0.3 * length
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_word_loss_is_pytorchs_cross_entropy_with_its_gradient(plugin, smoothing):
    from train_model.fairseq_plugin.glat_loss import _WordLoss

    torch.manual_seed(0)
    logits = torch.randn(12, 9, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([0, 8, -100, 3, -100, *range(7)])
    loss = _WordLoss.apply(logits, wanted, smoothing)
    expected = torch.nn.functional.cross_entropy(logits, wanted, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    (own,) = torch.autograd.grad(3 * loss, logits)
    (gradient,) = torch.autograd.grad(3 * expected, logits)
    torch.testing.assert_close(own, gradient)
    assert _WordLoss.apply(logits, torch.full_like(wanted, -100), smoothing) == 0


def test_ratio_falls_linearly_to_its_end(plugin):
    from train_model.fairseq_plugin.translation_nat import TranslationNatTask

    task = SimpleNamespace(
        cfg=SimpleNamespace(glancing_start=0.5, glancing_end=0.3, glancing_updates=100)
    )
    ratios = [TranslationNatTask.glancing_ratio(task, update) for update in (0, 50, 100, 1000)]
    assert ratios == pytest.approx([0.5, 0.4, 0.3, 0.3])


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_fused_adam_does_what_adam_does(max_norm):
    """With an epsilon so small that its place does not matter, over updates of different gradients."""
    from fairseq.optim import OPTIMIZER_REGISTRY

    config = SimpleNamespace(
        lr=[0.1], adam_betas="(0.9, 0.98)", adam_eps=1e-12, weight_decay=0.01, fp16_adam_stats=False
    )
    results = []
    for name in ("adam", "fused_adam"):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(7))]
        optimizer = OPTIMIZER_REGISTRY[name](config, parameters)
        norms = []
        for _ in range(5):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.multiply_grads(0.7)
            norms.append(float(optimizer.clip_grad_norm(max_norm)))
            optimizer.step()
        results.append((norms, [parameter.detach() for parameter in parameters]))
    (norms, theirs), (fused_norms, ours) = results
    assert fused_norms == pytest.approx(norms, rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_every_padding_policy_and_recorded_default(task):
    # the policy of checkpoints that do not record one
    assert build(task).config.padding_policy == "upstream"
    assert build(task, padding_policy="masked").config.padding_policy == "masked"
