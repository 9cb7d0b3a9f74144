"""Tests the plugin host: it must detect every mistake put into the plugins.

``plugin_attrs_issue/tests`` does the same to a plugin without the common base.
"""

from pathlib import Path

import pytest
import torch

from trt_code.tests.plugins import plugin_cases as cases
from trt_code.tests.plugins.plugin_build import Mistake, PluginBuild
from trt_code.tests.plugins.plugin_cases import Planned
from trt_code.tests.plugins.plugin_checks import REFUSED, check

pytestmark = pytest.mark.tensorrt_headers

PLUGIN, ATTRIBUTES = "plugin_common/plugin.cpp", "plugin_common/attributes.cpp"
CONV = "DynamicConvPlugin/dynamic_conv_plugin.cpp"
CRF = "CrfDecodePlugin/crf_decode_plugin.cpp"
NORM = "LayerNormPlugin/layer_norm_plugin.cpp"
TOPK = "TopKPlugin/top_k_plugin.cpp"

FUSED = {"heads": 4, "kernel": 5, "padding_l": 2, "mask": True}
FUSED_SHAPES = [(2, 37, 24), (1, 1, 24)]
CRF_SIZES = {"vocab": 31, "rank": 5}


def usual(data: bool) -> dict[str, Planned]:
    """Return one case per plugin."""
    seed = 7 if data else None
    return {
        "conv": cases.conv([(2, 12, 37)], heads=3, kernel=5, padding_l=2, seed=seed),
        "fused": cases.fused_conv(FUSED_SHAPES, seed=seed, **FUSED),
        "norm": cases.layer_norm([(5, 40)], residual=True, seed=seed),
        "crf": cases.crf_decode([(2, 9, 6), (1, 5, 6)], seed=seed, **CRF_SIZES),
        "crf-half": cases.crf_decode([(2, 9, 6)], torch.float16, seed=seed, **CRF_SIZES),
        "topk": cases.top_k([(5, 333)], k=8, seed=seed),
        "refused": REFUSED["beam of 65"][0],
    }


# The mistake, the case that shows it, and the host's message.
SEEN = {
    "field not declared": (
        Mistake(
            ATTRIBUTES,
            "for (const Attribute& a : attributes) fields.emplace_back(a.name, nullptr",
            "for (const Attribute& a : attributes) if (a.required) fields.emplace_back(a.name, nullptr",
        ),
        "fused",
        "is not declared by getFieldNames",
    ),
    "field not serialised": (
        Mistake(
            ATTRIBUTES,
            "for (const Attribute& a : attributes) fields.emplace_back(a.name, a.value",
            "for (const Attribute& a : attributes) if (a.required) fields.emplace_back(a.name, a.value",
        ),
        "fused",
        "is not serialised",
    ),
    "clone without the attributes": (
        Mistake(
            "plugin_common/plugin.h",
            "Derived(static_cast<const Derived&>(*this))",
            "Derived()",
            through=CONV,
        ),
        "fused",
        "a clone has other fields once its original is destroyed",
    ),
    "type unchecked at the mask's position": (
        Mistake(PLUGIN, "return type == nvinfer1::DataType::kINT32;", "return true;"),
        "fused",
        "accepts types that it must refuse: FLOAT FLOAT",
    ),
    "types not checked against each other": (
        Mistake(PLUGIN, "isData(type) && type == typeOfInput0", "isData(type)"),
        "conv",
        "",
    ),
    "format unchecked": (
        Mistake(PLUGIN, "tensor.format == nvinfer1::TensorFormat::kLINEAR &&", ""),
        "topk",
        "which is not linear",
    ),
    "a later position looked at": (
        Mistake(
            PLUGIN,
            "obeys(rule, tensor.type, inOut[0].desc.type)",
            "obeys(rule, tensor.type, inOut[nbInputs].desc.type)",
        ),
        "norm",
        "looks past position 0",
    ),
    "wrong output type": (
        Mistake(CRF, '{"scores", TypeRule::kFloat}', '{"scores", TypeRule::kData}'),
        "crf-half",
        "output 1 got type HALF instead of FLOAT",
    ),
    "output one too few": (
        Mistake(TOPK, ', {"indices", TypeRule::kInt32}', ""),
        "topk",
        "getNbOutputs is 1, the node has 2",
    ),
    "wrong output shape": (
        Mistake(TOPK, "builder.constant(k_)", "builder.constant(k_ + 1)"),
        "topk",
        "got shape [5,9] instead of [5,8]",
    ),
    "workspace of the smallest shape": (
        Mistake(
            PLUGIN,
            "&nvinfer1::DynamicPluginTensorDesc::max);",
            "&nvinfer1::DynamicPluginTensorDesc::min);",
        ),
        "crf",
        "larger workspace than the profile's largest",
    ),
    "refusal without a reason": (
        Mistake(
            PLUGIN,
            '  logError(std::string(getPluginName()) + ": " + reason);\n',
            "  (void)reason;\n",
        ),
        "refused",
        "refused without logging a reason",
    ),
    "missing field's pointer followed": (
        Mistake(
            ATTRIBUTES,
            "field.type != found->type || field.length != 1 || field.data == nullptr",
            "field.type != found->type",
        ),
        "fused",
        "",
    ),
}
# The host detects these because the plugin accepts a case that it must refuse.
PASSES = {
    "size unchecked": (
        Mistake(CRF, "return check(params(inputs));", "(void)inputs;\n  return nullptr;"),
        "beam of 65",
    ),
    "only the smallest shapes checked": (
        Mistake(
            PLUGIN,
            "&nvinfer1::DynamicPluginTensorDesc::max})",
            "&nvinfer1::DynamicPluginTensorDesc::opt})",
        ),
        "only the profile's end too long",
    ),
    "lengths not compared": (Mistake(CONV, " || differ(1, 3, 2)", ""), "other length"),
    "unknown attribute values taken": (
        Mistake(CONV, 'if (fused_ != 0 && fused_ != 1) return "fused must be 0 or 1";', ""),
        "fused neither 0 nor 1",
    ),
}
SEEN_ON_GPU = {
    "default stream": (
        Mistake(PLUGIN, "outputs, workspace, stream);", "outputs, workspace, nullptr);"),
        "topk",
        "put nothing into the stream",
    ),
    "types unchecked at enqueue": (
        Mistake(
            PLUGIN,
            'if (!obeys(rule, tensor.type, inputs.desc[0].type)) return "an input has the wrong type";',
            "",
        ),
        "topk",
        "success for an INT8 input",
    ),
    "bounds check of rows missing": (
        Mistake("kernels/layer_norm.cu", "if (row >= rows) return;", ""),
        "norm",
        "",
    ),
    "bounds check of positions missing": (
        Mistake("kernels/dynamic_conv.cu", "if (t + i < p.length) to[i]", "to[i]"),
        "conv",
        "",
    ),
    "read before the start, of what is dropped": (
        Mistake(
            "kernels/dynamic_conv_fused.cu",
            "firstRow + (inside ? t : 0)",
            "firstRow + (t < p.length ? t : 0)",
        ),
        "fused",
        "illegal memory access",
    ),
    "mask ignored": (
        Mistake(
            CONV,
            "shapes.count == 3 ? static_cast<const int32_t*>(inputs[2]) : nullptr",
            "shapes.count == 4 ? static_cast<const int32_t*>(inputs[2]) : nullptr",
        ),
        "fused",
        "",
    ),
    "residual ignored": (
        Mistake(
            NORM,
            "shapes.count == 4 ? inputs[3] : nullptr",
            "shapes.count == 5 ? inputs[3] : nullptr",
        ),
        "norm",
        "",
    ),
    "E1 and E2 exchanged": (
        Mistake(
            CRF,
            "inputs[2],\n                   inputs[3]",
            "inputs[3],\n                   inputs[2]",
        ),
        "crf",
        "",
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_mistake_is_seen(build: PluginBuild, tmp_path: Path, name: str) -> None:
    mistake, case, says = SEEN[name]
    (outcome,) = build.with_mistake(mistake, tmp_path).play([usual(data=False)[case].case])
    assert outcome.result in ("fault", "crash"), f"not seen: {outcome}"
    assert says in outcome.message, outcome


@pytest.mark.parametrize("name", PASSES)
def test_missing_refusal_is_seen(build: PluginBuild, tmp_path: Path, name: str) -> None:
    mistake, case = PASSES[name]
    (outcome,) = build.with_mistake(mistake, tmp_path).play([REFUSED[case][0].case])
    assert outcome.result != "refused", outcome


@pytest.mark.gpu
@pytest.mark.parametrize("name", SEEN_ON_GPU)
def test_mistake_is_seen_on_gpu(build: PluginBuild, tmp_path: Path, name: str) -> None:
    mistake, case, says = SEEN_ON_GPU[name]
    planned = usual(data=True)[case]
    (outcome,) = build.with_mistake(mistake, tmp_path).play([planned.case])
    if outcome.result == "passed":
        with pytest.raises(AssertionError, match=planned.case.name):
            compare(planned, outcome.outputs)
    else:
        assert outcome.result in ("fault", "crash"), outcome
        assert says in outcome.message, outcome


def compare(planned: Planned, outputs: list[list[torch.Tensor]]) -> None:
    for given_run, expected_run in zip(outputs, planned.references, strict=True):
        for given, expected in zip(given_run, expected_run, strict=True):
            check(planned.case, given, expected)
