"""INT8 in PyTorch: rounding and gradient, calibration, checkpoints, folding, training, sensitivity."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

from train_model.cli import UserError
from train_model.data.dictionary import SPECIALS
from train_model.model_folder import find_model
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.models.fold import fold, merge_projections
from train_model.models.quantized import QuantizedLinear, linears
from train_model.ops import fake_quantize
from train_model.quantization import ptq, sensitivity
from train_model.quantization.calibration import calibrate, rounded
from train_model.quantization.sensitivity import Probe, Quality, Row, measure, suggest
from train_model.quantization.text import calibration_rows
from train_model.tests.networks import small


def sentences(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randint(4, 40, (4, 9), generator=generator) for _ in range(count)]
    for tokens in batches:
        tokens[:, 0], tokens[:, -1] = 0, 2
        tokens[1, 5:], tokens[1, 4] = 1, 2
    return batches


@pytest.fixture(scope="module")
def quantized() -> ConvCrfTransformer:
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    return ptq.quantize(small(), [], sentences())


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_rounding_and_gradient_are_pytorchs(axis):
    torch.manual_seed(0)
    x = torch.randn(37, 21) * 2
    amax = torch.tensor(3.1) if axis == -1 else torch.rand(x.shape[axis]) * 3 + 1
    grad = torch.randn_like(x)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = fake_quantize(ours, amax, axis)
    scale = amax / 127
    if axis == -1:
        expected = torch.fake_quantize_per_tensor_affine(theirs, float(scale), 0, -128, 127)
    else:
        zero = torch.zeros(len(amax), dtype=torch.int32)
        expected = torch.fake_quantize_per_channel_affine(theirs, scale, zero, axis, -128, 127)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    y.backward(grad)
    expected.backward(grad)
    # Up to a step and a half below -amax, the two differ on purpose: PyTorch passes the gradient of values
    # that round to -128.
    sized = amax if axis == -1 else amax.view([-1, 1] if axis == 0 else [1, -1])
    clear = (x.abs() - sized).abs() > sized / 50
    assert 0.5 < (ours.grad != 0).float().mean() < 1
    assert torch.equal(ours.grad[clear], theirs.grad[clear])


def test_the_operator_follows_pytorchs_rules():
    x, amax = torch.randn(5, 4, requires_grad=True), torch.rand(4) + 0.5
    torch.library.opcheck(torch.ops.lite.fake_quantize.default, (x, amax, 1))


@pytest.mark.parametrize(
    ("amax", "axis"), [(torch.ones(3), 0), (torch.ones(4), -1), (torch.ones(()).double(), -1)]
)
def test_ranges_that_do_not_fit_are_refused(amax, axis):
    with pytest.raises(ValueError, match="fake_quantize"):
        fake_quantize(torch.randn(5, 4), amax, axis)


def test_modelopts_own_rounding_is_the_same():
    tensor_quantizer = pytest.importorskip(
        "modelopt.torch.quantization.nn.modules.tensor_quantizer", reason="no nvidia-modelopt"
    )
    torch.manual_seed(0)
    weight = torch.randn(12, 30)
    own = tensor_quantizer.TensorQuantizer()
    own._pass_through_bwd = False  # with the clipping that it offers, which is off by default
    own.axis, own.amax = 0, weight.abs().amax(1, keepdim=True) * 0.9
    theirs, ours = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    expected, got = own(theirs), fake_quantize(ours, own.amax.flatten(), 0)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    expected.sum().backward()
    got.sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert (ours.grad == 0).any()


def test_calibration_finds_the_largest_magnitudes(quantized):
    """Compared with hooks on the network in FP32, up to the rounding of scales to FP16."""
    merged = merge_projections(small())
    seen: dict[str, float] = {}

    def hook(name):
        def look(layer, inputs):
            seen[name] = max(seen.get(name, 0.0), float(inputs[0].abs().max()))

        return look

    for name, layer in linears(merged):
        layer.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for tokens in sentences():
            merged(tokens)
    assert len(quantized.config.int8_layers) == len(seen) - 1  # copy_attn becomes a table
    for name in quantized.config.int8_layers:
        layer = quantized.get_submodule(name)
        assert float(layer.input_quantizer.amax) == pytest.approx(seen[name], rel=1e-3)
        weight = merged.get_submodule(name).weight
        torch.testing.assert_close(
            layer.weight_quantizer.amax, rounded(weight.abs().amax(1)), rtol=0, atol=0
        )


def test_every_scale_is_a_normal_number_of_fp16():
    scales = rounded(torch.tensor([0.0, 1e-6, 0.3, 12.7, 900.0])) / 127
    assert torch.equal(scales, scales.half().float())
    assert scales.min() >= torch.finfo(torch.float16).smallest_normal


def test_a_percentile_cuts_what_is_rare():
    merged = merge_projections(small())
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    name = "encoder.layers.0.fc1"
    full = calibrate(merged, [name], sentences(40))[f"{name}.input_quantizer._amax"]
    cut = calibrate(merged, [name], sentences(40), "percentile")[f"{name}.input_quantizer._amax"]
    assert 0.5 * full < cut <= full * 1.001


def test_int8_changes_a_little_and_only_a_little(quantized):
    model = merge_projections(small())
    tokens = sentences(1)[0]
    with torch.no_grad():
        source, rounded_source = model.encode(tokens), quantized.encode(tokens)
        canvas = model.initial_canvas(torch.tensor([9, 5, 9, 9]), 9)
        expected, got = model.decode(canvas, source), quantized.decode(canvas, rounded_source)
    error = (got - expected).norm() / (expected - expected.mean(-1, keepdim=True)).norm()
    assert 1e-4 < error < 0.1


def test_keep_leaves_layers_alone():
    merged = merge_projections(small())
    everything = ptq.layers_to_quantize(merged)
    kept = ptq.layers_to_quantize(merged, ["*.fc2", "decoder.output_projection"])
    assert {name for name in everything if name not in kept} == {
        name for name in everything if name.endswith(".fc2") or name.endswith("output_projection")
    }
    with pytest.raises(UserError, match=r"--keep 'fc7' fits no layer; layers are encoder\."):
        ptq.layers_to_quantize(merged, ["fc7"])
    with pytest.raises(UserError, match="leaves no layer"):
        ptq.layers_to_quantize(merged, ["*"])


def test_int8_of_int8_is_refused(quantized):
    with pytest.raises(UserError, match="INT8 already"):
        ptq.quantize(quantized, [], sentences())


def test_a_checkpoint_in_int8_loads_without_modelopt(quantized, tmp_path):
    path = tmp_path / "int8.pt"
    save_checkpoint(path, quantized, quantized.config, torch.float16)
    code = (
        "import sys; from train_model.models.checkpoint import load_checkpoint as load;"
        f"config = load({str(path)!r}).config; assert 'modelopt' not in sys.modules;"
        "print(len(config.int8_layers))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(shown.stdout) == len(quantized.config.int8_layers)
    loaded = load_checkpoint(path)
    assert loaded.config == quantized.config
    for name, value in quantized.state_dict().items():
        same = loaded.model.state_dict()[name]
        assert torch.equal(same, value if "_amax" in name else value.half().float()), name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("zero", "is not a range of numbers"),
        ("nan", "is not a range of numbers"),
        ("missing", "lacks weights encoder.layers.0.fc1.input_quantizer._amax"),
        ("layer", "there is no linear layer 'encoder.layers.9.fc1'"),
    ],
)
def test_a_damaged_checkpoint_in_int8_is_refused(quantized, tmp_path, damage, message):
    path, name = tmp_path / "int8.pt", "encoder.layers.0.fc1.input_quantizer._amax"
    save_checkpoint(path, quantized, quantized.config)
    content = torch.load(path, weights_only=False)
    if damage == "missing":
        del content["model"][name]
    elif damage == "layer":
        content["args"].int8_layers = ["encoder.layers.9.fc1"]
    else:
        content["model"][name].fill_(0.0 if damage == "zero" else float("nan"))
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [[], ["decoder.layers.0.encoder_attn.k_proj"]])
@torch.no_grad()
def test_folding_an_int8_network_changes_nothing(keep):
    pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed (make env)")
    model = ptq.quantize(small(), keep, sentences()).double()
    tokens = sentences(1)[0]
    folded = fold(model)
    assert (folded.decoder.source_projection is None) == bool(keep)
    source, folded_source = model.encode(tokens), folded.encode(tokens)
    canvas = model.initial_canvas(model.predict_length(source), 18)
    logits, folded_logits = model.decode(canvas, source), folded.decode(canvas, folded_source)
    torch.testing.assert_close(folded_logits, logits, rtol=0, atol=1e-10)


def test_training_keeps_names_and_ranges_and_moves_weights(quantized, tmp_path):
    from train_model.quantization.training import make_trainable

    model = ConvCrfTransformer(quantized.config)
    model.load_state_dict(quantized.state_dict())
    tokens = sentences(1)[0]
    with torch.no_grad():
        expected = model.eval()(tokens)
    make_trainable(model, model.config.int8_layers)
    assert not any(isinstance(layer, QuantizedLinear) for layer in model.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert before.keys() == quantized.state_dict().keys()
    with torch.no_grad():
        got = model.eval()(tokens)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    outputs = model.train().training_outputs(model.encode(tokens), tokens, tokens)
    loss = nn.functional.cross_entropy(outputs["word_ins"]["out"].transpose(1, 2), tokens)
    (loss + outputs["word_crf"]["loss"] + outputs["length"]["out"].logsumexp(-1).mean()).backward()
    optimizer.step()
    after = model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert not any("_amax" in name for name in moved)
    assert all(f"{name}.weight" in moved for name in model.config.int8_layers)
    path = tmp_path / "trained.pt"
    save_checkpoint(path, model, model.config)
    assert load_checkpoint(path).config == quantized.config


def test_calibration_refuses_the_dictionary_of_another_network(tmp_path):
    files = find_model("demo")
    lines = files.src_dict.read_text(encoding="utf-8").splitlines(keepends=True)
    shorter = tmp_path / "dict.en.txt"
    shorter.write_text("".join(lines[:-1]), encoding="utf-8")
    files = dataclasses.replace(files, src_dict=shorter)
    with pytest.raises(UserError, match="give the dictionary that the network was trained with"):
        calibration_rows(files, None, 4, len(lines) + len(SPECIALS), 64)


def test_sensitivity_adds_up(quantized):
    merged = merge_projections(small())
    names = list(quantized.config.int8_layers)
    ranges = {name: value for name, value in quantized.state_dict().items() if "_amax" in name}
    rows = [row.tolist() for tokens in sentences(2) for row in tokens]
    probe = Probe(merged, ranges, names, rows)
    assert probe.reference == Quality(0.0, None)
    everything = probe.quality(names)
    measured = measure(probe, names)
    assert [row.layer for row in measured] == names
    assert sum(row.share for row in measured) == pytest.approx(1)
    assert all(0 <= row.only.error < everything.error * 1.5 for row in measured)
    squares = sum(row.only.error**2 for row in measured) ** 0.5
    assert 0.5 < squares / everything.error < 2
    assert probe.quality([]).error == 0  # the layers are put back


def test_the_suggestion_is_the_smallest_that_halves_the_error():
    def row(layer: str, error: float) -> Row:
        return Row(layer, 0.25, Quality(error, None), Quality(0.0, None))

    assert suggest([row("a", 1.0), row("b", 8.0), row("c", 1.0), row("d", 4.0)]) == ["b"]
    assert suggest([row("a", 3.0), row("b", 3.1), row("c", 3.2), row("d", 3.3)]) == ["d", "c", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "demo", "--sentences", "0"], "--sentences is at least 1"),
        (["--model", "demo", "--text", "nowhere.en"], "there is no text nowhere.en"),
        (["--model", "demo", "--keep", "fc7"], "fits no layer"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, tmp_path):
    output = tmp_path / "checkpoint.pt"
    with pytest.raises(UserError, match=message):
        ptq.main([*arguments, "--output", str(output)])
    assert not output.exists()


def test_sensitivity_is_for_one_pass(tmp_path):
    with pytest.raises(UserError, match="is autoregressive"):
        sensitivity.main(["--model", "demo-ar", "--output", str(tmp_path)])


def test_the_config_of_int8_survives_its_options(quantized):
    again = type(quantized.config).from_args(
        quantized.config.to_args(), quantized.config.src_vocab, quantized.config.tgt_vocab
    )
    assert again == quantized.config
    assert dataclasses.replace(again, int8_layers=[]).int8_layers == ()
