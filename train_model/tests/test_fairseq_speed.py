"""The changes that make fairseq's updates faster, compared with fairseq without them."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from train_model.cli import UserError

pytestmark = [pytest.mark.fairseq, pytest.mark.usefixtures("plugin")]


def config(mode):
    from omegaconf import OmegaConf

    adam = {
        "_name": "fused_adam",
        "lr": [0.1],
        "adam_betas": "(0.9, 0.98)",
        "adam_eps": 1e-8,
        "weight_decay": 0.01,
        "fp16_adam_stats": False,
    }
    common = {mode: True, "fp16_scale_window": 4, "fp16_init_scale": 4, "model_parallel_size": 1}
    common |= {"fp16_scale_tolerance": 0.0, "threshold_loss_scale": None, "min_loss_scale": 1e-4}
    cfg = {"optimizer": adam, "common": common, "optimization": {"update_freq": [1]}}
    return OmegaConf.create(cfg | {"distributed_training": {"distributed_world_size": 1}})


@pytest.mark.parametrize("mode", ["bf16", "fp16"])
def test_master_weights_are_those_of_adamw_in_fp32(mode):
    from fairseq.optim.fp16_optimizer import FP16Optimizer

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[mode]
    torch.manual_seed(0)
    weights = [
        torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in [(5, 3), (7,), (2, 2, 2)]
    ]
    expected = [torch.nn.Parameter(weight.data.float()) for weight in weights]
    optimizer = FP16Optimizer.build_optimizer(config(mode), weights)
    reference = torch.optim.AdamW(expected, lr=0.1, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01)
    for update in range(4):
        optimizer.zero_grad()
        factors = [torch.randn(weight.shape).to(dtype) for weight in weights]
        if update == 2:
            factors[1].zero_()
        loss = sum((w * f).sum() for w, f in zip(weights, factors, strict=True))
        optimizer.backward(loss)
        optimizer.multiply_grads(0.5)
        gradients = [0.5 * factor.float() for factor in factors]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        torch.testing.assert_close(torch.as_tensor(optimizer.clip_grad_norm(1.0)), norm)
        for parameter, gradient in zip(expected, gradients, strict=True):
            parameter.grad = gradient * min(1.0, 1.0 / (float(norm) + 1e-6))
        optimizer.step()
        reference.step()
        for weight, parameter in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.data, parameter.data.to(dtype), rtol=2e-2, atol=1e-2)
    masters = optimizer.fp32_params
    (flat,) = masters.values() if isinstance(masters, dict) else masters
    wanted = torch.cat([parameter.data.flatten() for parameter in expected])
    torch.testing.assert_close(flat.data, wanted, rtol=1e-5, atol=1e-6)


def language_pairs():
    from fairseq.data import Dictionary, LanguagePairDataset, ListDataset

    dictionary = Dictionary()
    for index in range(20):
        dictionary.add_symbol(f"w{index}")
    generator = torch.Generator().manual_seed(0)

    def rows():
        lengths = torch.randint(1, 9, (30,), generator=generator).tolist()
        texts = [torch.randint(4, 24, (length,), generator=generator) for length in lengths]
        rows = [torch.cat([text, torch.tensor([2])]) for text in texts]
        return ListDataset(rows, np.array([len(row) for row in rows]))

    source, target = rows(), rows()
    return LanguagePairDataset(
        source, source.sizes, dictionary, target, target.sizes, dictionary, shuffle=True
    )


def iterate(task_type, keep, workers=0):
    """Return the batches of two epochs of a task that has only data."""
    dataset = language_pairs()
    task = object.__new__(task_type)
    task.cfg = SimpleNamespace(keep_batches=keep, train_subset="train")
    task.dataset_to_epoch_iter = {}
    if keep:
        from train_model.fairseq_plugin.kept_batches import KeptBatches

        dataset = KeptBatches(dataset)
    task.datasets = {"train": dataset}
    iterator = task.get_batch_iterator(
        dataset, max_tokens=40, seed=3, num_workers=workers, data_buffer_size=0
    )
    return [copy.deepcopy(batch) for _ in range(2) for batch in iterator.next_epoch_itr()]


@pytest.mark.parametrize("name", ["translation_ar", "translation_nat"])
def test_kept_batches_are_the_same_batches_in_the_same_order(name):
    from fairseq.tasks import TASK_REGISTRY

    kept, fresh = (iterate(TASK_REGISTRY[name], keep) for keep in (True, False))
    assert len(kept) == len(fresh) > 4
    for ours, theirs in zip(kept, fresh, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["nsentences"] == theirs["nsentences"]
        for key in ("id", "target"):
            assert torch.equal(ours[key], theirs[key])
        for key, value in theirs["net_input"].items():
            assert torch.equal(ours["net_input"][key], value)


def test_kept_batches_refuse_workers():
    from fairseq.tasks import TASK_REGISTRY

    with pytest.raises(UserError, match="num_workers 0"):
        iterate(TASK_REGISTRY["translation_ar"], keep=True, workers=1)


def test_the_model_is_the_mean_of_the_newest_checkpoints(tmp_path):
    from train_model import train
    from train_model.models.checkpoint import load_checkpoint, save_checkpoint

    loaded = load_checkpoint("data_model/demo-ar/checkpoint.pt")
    weights = loaded.model.decoder.layers[0].fc1.weight
    first = weights.detach().clone()
    for epoch, updates, factor in ((1, 90, 7.0), (2, 100, 1.0), (10, 1000, 2.0), (9, 900, 6.0)):
        weights.data = first * factor
        save_checkpoint(tmp_path / f"checkpoint_{epoch}_{updates}.pt", loaded.model, loaded.config)
    (tmp_path / "checkpoint_last.pt").touch()
    newest = train._newest(tmp_path, 3)
    assert [path.name for path in newest] == [
        "checkpoint_2_100.pt",
        "checkpoint_9_900.pt",
        "checkpoint_10_1000.pt",
    ]
    train._convert(newest, tmp_path / "mean.pt")
    mean = load_checkpoint(tmp_path / "mean.pt").model.decoder.layers[0].fc1.weight
    torch.testing.assert_close(mean, 3 * first)


def test_an_autoregressive_training_starts_from_given_weights():
    from train_model.fairseq_plugin.transformer_multibranch_v2 import TransformerMultibranchModel
    from train_model.models.checkpoint import load_checkpoint

    path = "data_model/demo-ar/checkpoint.pt"
    start = load_checkpoint(path)
    words = range(start.config.tgt_vocab)
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    args = start.config.to_args()
    args.start_from, args.dropout = path, 0.3
    model = TransformerMultibranchModel.build_model(args, task)
    assert model.config.dropout == 0.3
    for name, value in start.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    args.encoder_ffn_embed_dim *= 2  # the checkpoint's counts
    assert TransformerMultibranchModel.build_model(args, task).config == model.config
    assert args.encoder_ffn_embed_dim == start.config.encoder_ffn_embed_dim


def test_square_batches_have_few_shapes_and_every_sentence():
    from train_model.fairseq_plugin.kept_batches import padded_width, square_batches

    lengths = np.random.default_rng(0).integers(1, 90, 500)
    indices = np.random.default_rng(1).permutation(1000)[:500]
    batches = square_batches(indices, lengths, 80, max_tokens=320, multiple=2)
    length = dict(zip(indices.tolist(), np.minimum(lengths, 80).tolist(), strict=True))
    sizes = {}
    for batch in batches:
        width = int(padded_width(np.array([length[index] for index in batch]), 80).max())
        assert len(batch) * width <= 320
        sizes.setdefault(width, set()).add(len(batch))
    assert all(len(found) <= 2 for found in sizes.values())
    assert sizes[8] == {40}
    assert set(np.concatenate(batches)) == set(indices)
    assert sum(map(len, batches)) - len(indices) < 4  # only the last batch may repeat some
    assert padded_width(np.array([1, 8, 9, 64, 65, 128, 129, 250]), 254).tolist() == [
        *(8, 8, 16, 64, 80, 128, 160, 254)
    ]


def test_r_drop_is_the_mean_cross_entropy_and_the_divergence_of_both_passes():
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

    from train_model.fairseq_plugin.r_drop import _RDrop

    torch.manual_seed(0)
    logits = torch.randn(14, 50, dtype=torch.double, requires_grad=True)
    target = torch.randint(2, 50, (7,))
    target[2] = 1  # padding
    lprobs = logits.log_softmax(-1)
    cross_entropy, nll = label_smoothed_nll_loss(lprobs, torch.cat([target, target]), 0.1, 1)
    first, second = lprobs.chunk(2)
    both = [
        torch.nn.functional.kl_div(p, q, log_target=True, reduction="none").sum(-1)
        for p, q in ((first, second), (second, first))
    ]
    divergence = (sum(both) / 2)[target != 1].sum()
    expected = cross_entropy / 2 + 3 / 2 * divergence
    found, found_nll, found_divergence = _RDrop.apply(logits, target, 0.1, 3.0, 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found_nll.double(), nll / 2, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found_divergence.double(), divergence, rtol=1e-6, atol=1e-5)
    (wanted,) = torch.autograd.grad(expected, logits)
    (gradient,) = torch.autograd.grad(2 * found, logits)
    torch.testing.assert_close(gradient, 2 * wanted, rtol=1e-5, atol=1e-6)


def test_linear_layers_of_recorded_steps_have_the_usual_gradients():
    from train_model.fairseq_plugin.graphed_steps import _linear

    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 5).double()
    x, scale = torch.randn(3, 4, 6).double().requires_grad_(), torch.randn(3, 4, 5).double()
    wanted, found = (
        torch.autograd.grad((y * scale).sum(), [x, *layer.parameters()])
        for y in (layer(x), _linear(layer, x))
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
