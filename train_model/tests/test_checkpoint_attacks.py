"""Hostile checkpoints, and checkpoints of other versions of fairseq."""

import argparse
import collections
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from train_model.cli import MAX_MESSAGE, UserError
from train_model.models.checkpoint import load_checkpoint, save_checkpoint
from train_model.models.conv_crf_transformer import ConvCrfTransformer
from train_model.tests.networks import network, one_pass

ROOT = Path(__file__).parents[2]
MATRIX, EMBEDDING = "encoder.layers.0.fc1.weight", "encoder.embed_tokens.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The content of a small one-pass network's checkpoint."""
    path = tmp_path_factory.mktemp("base") / "checkpoint.pt"
    config = one_pass()
    with torch.random.fork_rng(devices=[]):
        save_checkpoint(path, ConvCrfTransformer(config), config)
    return torch.load(path, weights_only=False)


@pytest.fixture(scope="module")
def stepwise(tmp_path_factory):
    """The content of a checkpoint of an autoregressive network with sinusoidal positions."""
    path = tmp_path_factory.mktemp("base") / "checkpoint.pt"
    model = network("attention alone")
    save_checkpoint(path, model, model.config)
    return torch.load(path, weights_only=False)


def refusal(tmp_path, content, **options) -> str:
    """Return the one-line message that refuses ``content``."""
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path, **options)
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < MAX_MESSAGE + 50
    assert "checkpoint.pt" in text
    return text


def with_weight(checkpoint, name, value):
    return checkpoint | {"model": checkpoint["model"] | {name: value}}


def with_options(checkpoint, **options):
    return checkpoint | {"args": argparse.Namespace(**vars(checkpoint["args"]) | options)}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (EMBEDDING, torch.zeros(()), "is not a matrix"),
        (EMBEDDING, None, "is not a tensor but NoneType"),
        (EMBEDDING, [1], "is not a tensor but list"),
        (3, torch.zeros(1), "the name of a weight is '3'"),
        (None, torch.zeros(1), "the name of a weight is 'None'"),
        ((1, "x"), torch.zeros(1), "the name of a weight is"),
        ("\x1b[2J\nerror: fake", torch.zeros(1), r"unknown weights \x1b[2J error: fake"),
        ("x" * 5_000_000, torch.zeros(1), "characters left out"),
        (MATRIX, torch.zeros(40, 24).to_sparse(), "sparse_coo"),
        (MATRIX, torch.zeros(40, 24).to_sparse_csr(), "sparse_csr"),
        (MATRIX, torch.zeros(40, 24, device="meta"), "on meta"),
        (MATRIX, torch.quantize_per_tensor(torch.zeros(40, 24), 0.1, 0, torch.qint8), "qint8"),
        (MATRIX, torch.zeros(40, 24, dtype=torch.complex64), "of type torch.complex64"),
        (MATRIX, torch.zeros(40, 24, dtype=torch.int8), "of type torch.int8"),
        (MATRIX, torch.zeros(1, 1).expand(40, 24), "fewer values than elements"),
        ("extra", torch.zeros(1, dtype=torch.half).expand(10**10), "fewer values than elements"),
        (MATRIX, torch.full((40, 24), float("nan")), "infinite or not numbers"),
        (MATRIX, torch.full((40, 24), 1e300, dtype=torch.float64), "infinite or not numbers"),
        (MATRIX, torch.eye(40, 24) * float("inf"), "infinite or not numbers"),
    ],
    ids=lambda value: None,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_weight_that_is_not_a_plain_matrix_of_numbers_is_refused(
    tmp_path, checkpoint, name, value, reason
):
    assert reason in refusal(tmp_path, with_weight(checkpoint, name, value))


def deep(levels):
    node = {}
    for _ in range(levels):
        node = {"model": node}
    return node


def endless():
    node = {}
    node["model"] = node
    return node


def bushy(levels):
    """Return nested lists with two references to the next level each: 2 ** levels paths."""
    node = ["x"]
    for _ in range(levels):
        node = [node, node]
    return {"model": {"arch": node}}


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        ({"model": {1: 2}}, "no options"),
        ({"model": {None: 2, "arch": "x"}}, "architecture 'x'"),
        ({"model": {"arch": "\x1b[2J\nfake"}}, r"architecture '\x1b[2J\nfake'"),
        ({"model": {"arch": "x" * 5_000_000}}, "characters left out"),
        ({"model": {"arch": ["x"]}}, "names no architecture"),
        (deep(200), "nested without end"),
        (endless(), "nested without end"),
        (bushy(45), "names no architecture"),
        ("text", "no options"),
    ],
    ids=lambda value: None,
)
def test_options_of_any_form_are_one_line(tmp_path, checkpoint, cfg, reason):
    assert reason in refusal(tmp_path, {"model": checkpoint["model"], "cfg": cfg})


@pytest.mark.parametrize(
    "options",
    [
        {"arch": ["conv_crf_transformer"]},
        {"arch": {}},
        {"encoder_layers": 10**10, "encoder_kernel_size_list": [3]},
        {"encoder_layers": 200_000, "encoder_kernel_size_list": [3]},
        {"encoder_layers": "2"},
        {"encoder_layers": -1},
        {"encoder_kernel_size_list": 3},
        {"encoder_kernel_size_list": [3, -6]},
        {"encoder_kernel_size_list": [3 * 10**6] * 2},
        {"encoder_ffn_embed_dim": 24_000_000},
        {"encoder_ffn_embed_dim": 10**30},
        {"encoder_conv_dim": 8 * 10**6},
        {"crf_lowrank_approx": 10**8},
        {"decoder_attention_heads": 0},
        {"crf_beam_approx": 0},
        {"max_source_positions": 10**9},
        {"int8_layers": 5},
        {"dropout": "much"},
    ],
    ids=str,
)
def test_options_that_the_weights_do_not_have_are_refused(tmp_path, checkpoint, options):
    refusal(tmp_path, with_options(checkpoint, **options))


def test_no_memory_is_taken_before_the_weights_are_known_to_fit(tmp_path, checkpoint):
    """Each of these asks for gigabytes; all of them are refused within 2 GiB of addresses."""
    bombs = {
        "ffn": with_options(checkpoint, encoder_ffn_embed_dim=24_000_000),
        "kernel": with_options(checkpoint, encoder_kernel_size_list=[3 * 10**6] * 2),
        "crf": with_options(checkpoint, crf_lowrank_approx=5 * 10**7),
        "layers": with_options(checkpoint, encoder_layers=10**10, encoder_kernel_size_list=[3]),
        "expanded": with_weight(checkpoint, EMBEDDING, torch.zeros(1).expand(10**9, 24)),
    }
    for name, content in bombs.items():
        torch.save(content, tmp_path / f"{name}.pt")
    code = """
import resource, sys
from train_model.cli import UserError
from train_model.models.checkpoint import load_checkpoint
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31,) * 2)
for path in sys.argv[1:]:
    try:
        load_checkpoint(path)
    except UserError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / f"{name}.pt") for name in bombs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert len(done.stdout.splitlines()) == len(bombs)
    assert "memory" not in done.stdout.replace(str(tmp_path), "")  # its name has the word


def test_a_compressed_archive_is_refused(tmp_path, checkpoint):
    plain, bomb = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save(with_weight(checkpoint, "zeros", torch.zeros(10**6)), plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UserError, match="compressed archive; save it again"):
        load_checkpoint(bomb)


class Shadowing(collections.OrderedDict):
    """Pickles as an OrderedDict with attributes that have its methods' names."""

    def __reduce__(self):
        names = dict.fromkeys(("items", "get", "keys", "values"), 3)
        return collections.OrderedDict, (), names, None, iter(dict.items(self))


def test_attributes_cannot_shadow_methods(tmp_path, checkpoint):
    weight = checkpoint["model"][MATRIX].clone()
    weight.float = weight.detach = weight.dim = 3
    content = with_weight(checkpoint, MATRIX, weight)
    path = tmp_path / "checkpoint.pt"
    torch.save(Shadowing(content | {"model": Shadowing(content["model"])}), path)
    assert load_checkpoint(path).model.state_dict()[MATRIX].equal(checkpoint["model"][MATRIX])


@pytest.mark.parametrize(
    "kind", ["bool_", "int8", "uint16", "int32", "int64", "float16", "float32", "float64"]
)
def test_numpy_numbers_next_to_the_weights_load(tmp_path, checkpoint, kind):
    path = tmp_path / "checkpoint.pt"
    kept = {"best": getattr(np, kind)(1), "all": np.ones(3, kind)}
    torch.save(checkpoint | {"extra_state": kept}, path)
    load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_of_floating_point_loads_as_fp32(tmp_path, checkpoint, dtype):
    weights = {name: value.to(dtype) for name, value in checkpoint["model"].items()}
    torch.save(checkpoint | {"model": weights}, tmp_path / "checkpoint.pt")
    loaded = load_checkpoint(tmp_path / "checkpoint.pt").model.state_dict()
    assert loaded[MATRIX].equal(weights[MATRIX].float())


def older(weights):
    """The names that fairseq before 0.9 gave the weights of an attention and of fixed positions."""
    old = {}
    for name, value in weights.items():
        stem, _, last = name.rpartition(".")
        if name.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            continue
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            attention = stem.removesuffix(".q_proj")
            parts = [weights[f"{attention}.{part}_proj.{last}"] for part in "qkv"]
            old[f"{attention}.in_proj_{last}"] = torch.cat(parts)
        elif last == "_float_tensor":
            old[f"{stem}.weights"] = torch.zeros(60, 32)
        elif last != "version":
            old[name] = value
    return old


@pytest.mark.parametrize(
    "change",
    [
        older,
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {n: v for n, v in weights.items() if not n.endswith("_float_tensor")},
        lambda weights: {f"module.{name}": value for name, value in older(weights).items()},
    ],
    ids=["before 0.9", "DataParallel", "newer", "both"],
)
def test_names_of_other_versions_are_translated(tmp_path, stepwise, change):
    path = tmp_path / "checkpoint.pt"
    torch.save(stepwise | {"model": change(stepwise["model"])}, path)
    loaded = load_checkpoint(path).model.state_dict()
    assert loaded.keys() == stepwise["model"].keys()
    for name, value in stepwise["model"].items():
        if not name.endswith(("version", "_float_tensor")):
            assert loaded[name].equal(value), name
