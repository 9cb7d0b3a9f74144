"""The example of doc/porting.md runs, computes what fairseq computes, and prints what the page shows."""

import re
import runpy
from pathlib import Path

import onnx
import pytest
import torch

DOC = Path(__file__).parents[3] / "doc"


@pytest.fixture(scope="module")
def example() -> dict:
    return runpy.run_path(str(DOC / "porting" / "light_conv.py"))


def test_every_step_agrees_and_the_page_shows_it(example, capsys):
    assert example["main"]() == 0
    printed = capsys.readouterr().out
    page = (DOC / "porting.md").read_text(encoding="utf-8")

    def shape(text: str) -> str:  # the last digits depend on the machine
        return re.sub(r"\d\.\de-\d+", "#", text)

    assert shape(printed) in shape(page)


@pytest.mark.parametrize("padding_l", [0, 1, 2])
def test_operator(example, padding_l):
    x = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    light_conv = example["light_conv"]
    torch.testing.assert_close(
        light_conv(x, weight, padding_l), example["definition"](x, weight, padding_l)
    )
    torch.library.opcheck(light_conv, (x, weight, padding_l))
    assert torch.autograd.gradcheck(lambda *args: light_conv(*args, padding_l), (x, weight))


def test_operator_refuses_what_does_not_fit(example):
    with pytest.raises(ValueError, match="C a multiple of H"):
        example["light_conv"](torch.zeros(1, 5, 4), torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match=r"within 0\.\.2"):
        example["light_conv"](torch.zeros(1, 4, 4), torch.zeros(2, 3), 3)


@pytest.mark.fairseq
@pytest.mark.parametrize("padding_l", [2, 4])
def test_layer_is_that_of_fairseq(example, padding_l):
    from train_model import fairseq_compat

    fairseq_compat.prepare()
    from fairseq.modules.lightweight_convolution import LightweightConv1dTBC

    theirs = LightweightConv1dTBC(
        8, 5, padding_l=padding_l, num_heads=2, weight_dropout=0.0, weight_softmax=True
    ).eval()
    ours = example["LightConv"](heads=2, kernel_size=5, padding_l=padding_l)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 8, 7)
    torch.testing.assert_close(ours(x), theirs(x.permute(2, 0, 1)).permute(1, 2, 0))


def test_the_patched_graph_has_the_node_and_no_function(example):
    layer = example["LightConv"](heads=2, kernel_size=3, padding_l=1).eval()
    patched = example["patch"](example["export"](layer, torch.randn(2, 4, 6)))
    (node,) = [node for node in patched.graph.node if node.op_type == "LiteLightConv"]
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert attributes == {
        "padding_l": 1,
        "heads": 2,
        "plugin_version": b"1",
        "plugin_namespace": b"",
    }
    assert not patched.functions
