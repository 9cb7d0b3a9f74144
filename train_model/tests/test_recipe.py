"""Recipes: all load, have all flags of the original, and errors are refused in one line."""

import re

import pytest

from train_model import recipe
from train_model.cli import UserError
from train_model.models.architectures import ARCHITECTURES
from train_model.models.config import is_training_option

# train_model/covCrfLiteNatStart.sh of ustcdane/lite_transformer_trt, its flags after `python train.py`.
ORIGINAL = """
--arch conv_crf_transformer --noise full_mask --no-progress-bar --log-interval 1000 --optimizer adam
--adam-betas (0.9,0.999) --adam-eps 1e-6 --task translation_lev --apply-bert-init --clip-norm 5
--weight-decay 0.01 --criterion nat_loss --src-embedding-copy --label-smoothing 0.1
--keep-last-epochs 5 --ddp-backend no_c10d --max-tokens 12000 --lr-scheduler inverse_sqrt
--warmup-init-lr 1e-7 --stop-min-lr 1e-9 --warmup-updates 4000 --max-epoch 45 --max-update 2000000
--conv-linear --lr 5e-4 --dropout 0.1 --attention-dropout 0.08 --activation-fn gelu
--encoder-layers 6 --decoder-layers 6 --weight-dropout 0.08 --encoder-glu 1 --decoder-glu 1
--decoder-layerdrop 0.02 --max-source-positions 254 --max-target-positions 254
--length-loss-factor 0.1 --eval-bleu --encoder-embed-dim 512 --encoder-ffn-embed-dim 2048
--decoder-embed-dim 512 --decoder-ffn-embed-dim 2048 --encoder-kernel-size-list 3,5,5,7,15,15
--decoder-kernel-size-list 3,5,5,7,15,15 --word-ins-loss-factor 0.5 --crf-lowrank-approx 32
--crf-beam-approx 32 --maximize-best-checkpoint-metric --decoder-learned-pos --encoder-learned-pos
--num-workers 1 --reset-optimizer --skip-invalid-size-inputs-valid-test
"""
# Each is explained at the head of wmt16.yaml.
DEPARTURES = {"no_progress_bar", "task", "ddp_backend", "reset_optimizer"}


FAIRSEQS_OWN = ARCHITECTURES.keys() - {"conv_crf_transformer", "transformer_multibranch_v2"}


def plain(value: object) -> object:
    """Return a flag's value in a form that does not depend on its spelling."""
    if isinstance(value, list):
        return tuple(float(item) for item in value)
    numbers = re.fullmatch(r"[(\[]?([-+.,\de ]+)[)\]]?", str(value))
    if numbers and not isinstance(value, bool):
        found = tuple(float(item) for item in numbers[1].split(","))
        return found if len(found) > 1 else found[0]
    return value


def test_wmt16_has_every_flag_of_the_original():
    flags = recipe.load("wmt16").flags
    for entry in ORIGINAL.split("--")[1:]:
        name, _, value = entry.strip().partition(" ")
        name = name.replace("-", "_")
        if name not in DEPARTURES:
            assert plain(flags[name]) == plain(value or True), name


def test_wmt16_decodes_as_the_original_validates():
    assert recipe.load("wmt16").flags["eval_bleu_args"] == {
        "iter_decode_max_iter": 0,
        "iter_decode_with_beam": 1,
    }


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_pads_on_the_right_and_masks(name):
    loaded = recipe.load(name)
    assert loaded.summary
    assert loaded.flags["left_pad_source"] is False
    # A recipe that starts from a checkpoint takes the policy of that network. fairseq's own classes do not
    # have the option, and padding does not leak in them.
    exempt = "start_from" in loaded.flags or loaded.flags["arch"] in FAIRSEQS_OWN
    assert exempt or loaded.flags["padding_policy"] == "masked"


@pytest.mark.parametrize("name", [name for name in recipe.names() if name.endswith("-qat")])
def test_fine_tuning_in_int8_has_the_dropout_and_the_loss_of_the_network(name):
    def options(recipe_name):
        flags = recipe.load(recipe_name).flags
        return {key: value for key, value in flags.items() if is_training_option(key)}

    assert options(name) == options(name.removesuffix("-qat"))


def test_flags_become_arguments():
    made = recipe.Recipe(
        name="x",
        summary="",
        corpus="",
        flags={
            "eval_bleu": True,
            "fp16": False,
            "left_pad_source": False,
            "kernels": [3, 7],
            "eval_bleu_args": {"beam": 1},
            "lr": 1e-3,
            "max_epoch": None,
        },
    )
    assert made.arguments() == [
        *("--eval-bleu", "--left-pad-source", "--kernels", "3", "7"),
        *("--eval-bleu-args", '{"beam": 1}', "--lr", "0.001"),
    ]


def test_overrides_are_yaml_and_win():
    loaded = recipe.load(
        "demo", ["max-update=7", "encoder_kernel_size_list=[3, 5]", "dropout=null"]
    )
    assert loaded.flags["max_update"] == 7
    assert loaded.flags["encoder_kernel_size_list"] == [3, 5]
    assert loaded.flags["dropout"] is None
    assert loaded.name == "demo"


def test_an_unknown_recipe_is_reported_with_the_known_ones():
    with pytest.raises(UserError, match=r"no recipe 'nope'; RECIPE is one of: .*demo.*wmt16"):
        recipe.load("nope")


@pytest.mark.parametrize("override", ["max_update", "=3", "x=[1"])
def test_bad_overrides_are_quoted(override):
    with pytest.raises(UserError, match=re.escape(repr(override))):
        recipe.load("demo", [override])


def test_a_recipe_may_average_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "CONFIGS", tmp_path)
    content = "summary: s\ncorpus: demo\nflags: {arch: a}\n"
    (tmp_path / "a.yaml").write_text(content + "average: 3\n")
    (tmp_path / "b.yaml").write_text(content)
    assert (recipe.load("a").average, recipe.load("b").average) == (3, None)
    for wrong, message in {
        "average: 0": "1 or more",
        "average: no": "1 or more",
        "more: 1": "may have average",
    }.items():
        (tmp_path / "a.yaml").write_text(f"{content}{wrong}\n")
        with pytest.raises(UserError, match=message):
            recipe.load("a")
