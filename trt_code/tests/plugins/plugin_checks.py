"""Cases that a plugin must refuse, and how close a result must be."""

import dataclasses

import torch

from trt_code.plugin_host.host import Case
from trt_code.tests.plugins import plugin_cases as cases
from trt_code.tests.plugins.plugin_cases import INT32, Planned

# Relative to the largest reference value: rounding of the result and of the sums inside.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def conv_case(**changes: object) -> Planned:
    given = {"shapes": [(2, 8, 5)], "heads": 4, "kernel": 3, "padding_l": 1} | changes
    return cases.conv(**given)


def fused_case(**changes: object) -> Planned:
    given = {"shapes": [(2, 5, 8)], "heads": 4, "kernel": 3, "padding_l": 1, "mask": True} | changes
    return cases.fused_conv(**given)


def with_attributes(planned: Planned, **attributes: object) -> Planned:
    """The case with attributes changed, or removed where the value is None."""
    changed = {k: v for k, v in (planned.case.attributes | attributes).items() if v is not None}
    return Planned(dataclasses.replace(planned.case, attributes=changed))


def with_input(
    planned: Planned, index: int, *shape: int, dtype: torch.dtype | None = None
) -> Planned:
    """The case with one input's shape, and type if given, changed in its only run."""
    inputs = list(planned.case.inputs[0])
    inputs[index] = torch.empty(shape, dtype=dtype or inputs[index].dtype, device="meta")
    return Planned(dataclasses.replace(planned.case, inputs=[inputs]))


def with_inputs(planned: Planned, count: int) -> Planned:
    """Return the case with only its first inputs, or with the last one repeated."""
    inputs = list(planned.case.inputs[0])
    inputs = (inputs + inputs[-1:] * count)[:count]
    return Planned(dataclasses.replace(planned.case, inputs=[inputs], accepted=()))


NORM = cases.layer_norm([(2, 3, 8)], residual=True)


CRF = cases.crf_decode([(2, 5, 4)], vocab=20, rank=3)


TOPK = cases.top_k([(2, 9)], k=4)


REFUSED = {
    "attribute missing": (with_attributes(conv_case(), padding_l=None), "create", "missing"),
    "attribute of another type": (
        with_attributes(conv_case(), padding_l=1.5),
        "fields",
        "declared INT32, but the parser passes FLOAT32",
    ),
    "attribute with two values": (
        with_attributes(conv_case(), padding_l=[1, 2]),
        "create",
        "must be one INT",
    ),
    "fused neither 0 nor 1": (with_attributes(fused_case(), fused=2), "create", "0 or 1"),
    "fused without heads": (with_attributes(fused_case(), heads=None), "create", "needs heads"),
    "negative padding": (conv_case(padding_l=-1), "create", "padding_l"),
    "padding of a kernel": (conv_case(padding_l=3), "configure", "padding_l"),
    "K = 0": (conv_case(kernel=0, padding_l=0), "configure", "kernel size"),
    "K = 256": (conv_case(kernel=256), "configure", "kernel size"),
    "heads do not divide": (conv_case(heads=3), "configure", "multiple of heads"),
    "other heads than said": (with_attributes(conv_case(), heads=2), "configure", "differ"),
    "x of rank 2": (with_input(conv_case(), 0, 8, 5), "shapes", "x must be of rank 3"),
    "weight of rank 3": (with_input(conv_case(), 1, 4, 3, 5), "shapes", "weight must be of rank 4"),
    "other length": (with_input(conv_case(), 1, 2, 4, 3, 6), "configure", "disagree"),
    "other batch": (with_input(conv_case(), 1, 3, 4, 3, 5), "configure", "disagree"),
    "mixed types": (
        with_input(conv_case(), 1, 2, 4, 3, 5, dtype=torch.float16),
        "types",
        "weight must be FP32, FP16 or BF16, the same",
    ),
    "INT32 data": (conv_case(dtype=INT32), "types", "x must be FP32, FP16 or BF16"),
    "one input": (with_inputs(conv_case(), 1), "types", "too few inputs"),
    "three inputs": (with_inputs(conv_case(), 3), "types", "too many inputs"),
    "mask without fused": (with_attributes(fused_case(), fused=None), "types", "too many inputs"),
    "logits too narrow": (with_input(fused_case(), 1, 2, 5, 11), "configure", "heads * kernel"),
    "mask of BOOL": (with_input(fused_case(), 2, 2, 5, dtype=torch.bool), "types", "INT32"),
    "mask of INT64": (with_input(fused_case(), 2, 2, 5, dtype=torch.int64), "types", "INT32"),
    "mask too long": (with_input(fused_case(), 2, 2, 6), "configure", "mask"),
    "eps negative": (with_attributes(NORM, eps=-1.0), "create", "eps"),
    "eps not finite": (with_attributes(NORM, eps=float("inf")), "create", "eps"),
    "FP16 scale": (with_input(NORM, 1, 8, dtype=torch.float16), "types", "scale must be FP32"),
    "scale too short": (with_input(NORM, 1, 7), "configure", "as long as"),
    "residual of another shape": (with_input(NORM, 3, 3, 2, 8), "configure", "same shape"),
    "residual of another type": (
        with_input(NORM, 3, 2, 3, 8, dtype=torch.float16),
        "types",
        "residual must be",
    ),
    "beam of 65": (cases.crf_decode([(1, 4, 65)], vocab=9, rank=2), "configure", "beam"),
    "length of 513": (cases.crf_decode([(1, 513, 4)], vocab=9, rank=2), "configure", "length"),
    "only the profile's end too long": (
        cases.crf_decode([(1, 4, 4), (1, 513, 4)], vocab=9, rank=2),
        "configure",
        "length",
    ),
    "targets of another shape": (with_input(CRF, 1, 2, 5, 3), "configure", "same shape"),
    "targets of INT64": (with_input(CRF, 1, 2, 5, 4, dtype=torch.int64), "types", "targets must"),
    "E2 of another shape": (with_input(CRF, 3, 20, 4), "configure", "E1 and E2"),
    "CRF mask too long": (with_input(CRF, 4, 2, 6), "configure", "mask"),
    "k = 0": (cases.top_k([(2, 9)], k=0), "create", "k must be 1 or more"),
    "k = 65": (cases.top_k([(2, 99)], k=65), "configure", "1..64"),
    "k over the width": (with_input(TOPK, 0, 2, 3), "configure", "width"),
    "rank 0": (with_input(TOPK, 0), "shapes", "rank 1 or more"),
    "2^31 wide": (with_input(TOPK, 0, 2, 2**31), "configure", "2^31"),
}


def check(case: Case, given: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare exactly if the case allows it, otherwise relative to the largest value."""
    given, expected, dtype = given.double(), expected.double(), given.dtype
    exact = torch.ones_like(expected, dtype=torch.bool)
    if case.plugin in ("LiteDynamicConv", "LiteLayerNorm"):
        exact = ~expected.isfinite()
        largest = expected[~exact].abs().max().clamp(min=1)
        error = (given - expected)[~exact].abs().max() / largest
        assert error <= TOLERANCE[dtype], (case.name, float(error))
    torch.testing.assert_close(
        given[exact],
        expected[exact],
        rtol=0,
        atol=0,
        equal_nan=True,
        msg=lambda message: f"{case.name}: {message}",
    )
