"""The cost table counts the same as the published numbers."""

import pytest

from train_model import recipe
from train_model.cli import UserError
from train_model.model_stats import PUBLISHED, build, cost, main, recipes, table


def by_hand(width, kernels, length):
    """Return the Mult-Adds of a WMT16 Lite Transformer from the paper's description, layer by layer."""
    half = width // 2
    total = 0
    for kernel in kernels:
        convolution = 2 * half * half + half * 4 * kernel + half * kernel + half * half
        feed_forward = 2 * width * width
        encoder = 4 * half * half + 2 * half * length + convolution + feed_forward
        seen = (length + 1) / 2  # a token attends to itself and to earlier tokens
        decoder = 4 * half * half + 2 * half * seen + convolution + feed_forward
        decoder += 4 * width * width + 2 * width * length
        total += length * (encoder + decoder)
    return total


@pytest.mark.parametrize(("name", "width"), [("wmt16-ar-200", 200), ("wmt16-ar-496", 496)])
def test_mult_adds_are_those_of_the_paper(name, width):
    found = cost(build(name), 30, 30)
    assert found.mult_adds == by_hand(width, (3, 7, 15, 31, 31, 31), 30)
    assert found.mult_adds == pytest.approx(PUBLISHED[name], rel=2e-3)
    assert found.vocabulary == 30 * width * 32768


def test_every_recipe_with_a_network_has_a_row():
    rows = table(recipes(), 3, 2).splitlines()[2:]
    assert [row.split()[1] for row in rows] == recipes()
    without = {name for name in recipe.names() if name.endswith("-qat")}
    assert set(recipe.names()) - set(recipes()) == without
    with pytest.raises(UserError, match="the network of demo-qat is that of a checkpoint"):
        build("demo-qat")


def test_parameters_are_counted_once_where_embeddings_are_shared():
    model = build("demo-ar")
    found = cost(model, 3, 3)
    assert found.embeddings == model.config.src_vocab * model.config.encoder_embed_dim
    assert found.embeddings < found.parameters


def test_an_unknown_recipe_is_reported():
    with pytest.raises(UserError, match="no recipe 'wmt17'"):
        main(["--recipe", "wmt17"])
