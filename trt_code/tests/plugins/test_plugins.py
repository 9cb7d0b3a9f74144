"""The TensorRT plugins in the plugin host, which stands in for TensorRT.

Without a GPU every case runs up to ``enqueue``; with one its outputs are compared with float64.
``test_plugin_mistakes`` tests the host itself.
"""

import dataclasses
import os
import random
import subprocess
from collections.abc import Sequence

import pytest
import torch

from onnx_export.symbols.schema import TensorSpec
from onnx_export.tests.operator_examples import Example, examples
from train_model.cli import UserError
from trt_code.lint.plugins import schema_fields
from trt_code.plugin_host.host import Case, Outcome, PluginHost
from trt_code.tests.plugins import plugin_cases as cases
from trt_code.tests.plugins.plugin_build import PROJECT, PluginBuild
from trt_code.tests.plugins.plugin_cases import Planned
from trt_code.tests.plugins.plugin_checks import (
    REFUSED,
    check,
    conv_case,
)

pytestmark = pytest.mark.tensorrt_headers

# The number of random cases; a long run sets thousands.
DRAWN_CASES = int(os.environ.get("LITE_FUZZ_CASES", "300"))
DRAWN_GPU_CASES = int(os.environ.get("LITE_FUZZ_GPU_CASES", "60"))


def test_fields_are_the_attributes_of_the_schemas(host: PluginHost) -> None:
    assert host.fields() == schema_fields()


@pytest.mark.parametrize("example", examples(), ids=str)
def test_signature_is_that_of_the_schema(host: PluginHost, example: Example) -> None:
    """The names, number, types and ranks of the tensors, and the default of a missing attribute."""
    usual, broken = schema_case(example), broken_cases(example)
    lived, *refused = host.play([usual, *(case for case, _ in broken)], device=False)
    assert lived.result == "passed", lived
    full = example.operator.defaults | example.attributes
    printed = {name: f"{full[name]:.9g}" for name in example.operator.attributes}
    assert lived.timing_cache_id == " ".join(f"{name}={value}" for name, value in printed.items())
    for (case, reason), outcome in zip(broken, refused, strict=True):
        assert outcome.result == "refused", (case.name, outcome)
        assert reason in outcome.message, case.name


def schema_case(example: Example) -> Case:
    """Return the example as a case, with the types and shapes of outputs that the schema infers."""

    def tensors(specs: Sequence[TensorSpec]) -> list[torch.Tensor]:
        return [
            torch.empty(
                example.shape(spec), dtype=cases.FIXED.get(spec.type, torch.float32), device="meta"
            )
            for spec in specs
        ]

    inputs, outputs = tensors(example.inputs), tensors(example.form.outputs)
    name, plugin = str(example), example.operator.name
    return cases.make_case(name, plugin, example.attributes, [inputs], [outputs])


def broken_cases(example: Example) -> list[tuple[Case, str]]:
    """Return the example with one fault each, and words of the refusal."""
    usual = dataclasses.replace(schema_case(example), accepted=())
    (inputs,) = usual.inputs
    broken = []

    def add(reason: str, **changes: object) -> None:
        broken.append((dataclasses.replace(usual, **changes), reason))

    for index, spec in enumerate(example.inputs):
        wrong = (1,) if spec.rank is not None and spec.rank != 1 else ()
        changed = torch.empty(wrong, dtype=inputs[index].dtype, device="meta")
        rank = "1 or more" if spec.rank is None else spec.rank
        given = [*inputs[:index], changed, *inputs[index + 1 :]]
        add(f"{spec.name} must be of rank {rank}", inputs=[given])
    if len(inputs) == len(example.form.inputs):
        add("too many inputs", inputs=[[*inputs, inputs[-1]]])
    if len(inputs) == example.form.fewest and len(inputs) > 1:
        add("too few inputs", inputs=[inputs[:-1]])
    for name in example.form.needs:
        if name not in example.operator.defaults:
            rest = {key: value for key, value in usual.attributes.items() if key != name}
            add(f"attribute '{name}' is missing", attributes=rest)
    return broken


def test_walkthrough_quotes_the_fields(host: PluginHost) -> None:
    printed = subprocess.run(
        [host.program, host.library, "--fields"], capture_output=True, text=True, check=True
    ).stdout
    (quoted,) = [line.strip(" ,") for line in printed.splitlines() if "LiteTopK" in line]
    assert quoted in (PROJECT / "doc/plugin_walkthrough.md").read_text(encoding="utf-8")


def test_library_shows_two_functions_and_needs_no_tensorrt(host: PluginHost) -> None:
    def symbols(*options: str) -> set[str]:
        reply = subprocess.run(
            ["nm", "-D", "--format=posix", *options, host.library],
            capture_output=True,
            text=True,
            check=True,
        )
        return {line.split()[0].split("@")[0] for line in reply.stdout.splitlines()}

    assert symbols("--defined-only") == {"getCreators", "setLoggerFinder"}
    foreign = ("getLogger", "getPluginRegistry", "nvinfer", "cudnn", "cublas", "cuda", "torch")
    assert not [s for s in symbols("--undefined-only") if any(f in s for f in foreign)]


def test_usual_cases_live(host: PluginHost) -> None:
    planned = cases.usual(data=False)
    for outcome in play(host, planned):
        assert outcome.result == "passed", outcome
        assert outcome.stage == "onShapeChange"


def test_timing_cache_tells_attributes_apart(host: PluginHost) -> None:
    planned = [
        cases.conv([(1, 8, 4)], heads=2, kernel=3, padding_l=padding_l, name=f"p{padding_l}")
        for padding_l in (0, 1, 2)
    ]
    planned += [cases.layer_norm([(2, 8)], eps=eps, name=f"e{eps}") for eps in (1e-5, 1.1e-5)]
    identities = [outcome.timing_cache_id for outcome in play(host, planned)]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_a_reason(host: PluginHost, name: str) -> None:
    planned, stage, reason = REFUSED[name]
    (outcome,) = host.play([dataclasses.replace(planned.case, accepted=())])
    if stage == "fields":  # does not reach the plugin: the host checks the declaration itself
        assert outcome.result == "fault"
    elif reason:
        assert outcome.result == "refused", outcome
        assert planned.case.plugin in outcome.message
    assert outcome.stage == stage, outcome
    assert reason in outcome.message


def test_unknown_plugin(host: PluginHost) -> None:
    case = dataclasses.replace(conv_case().case, plugin="LiteNothing")
    (outcome,) = host.play([case])
    assert (outcome.result, outcome.stage) == ("refused", "fields")


def test_library_of_another_major_is_refused(build: PluginBuild) -> None:
    other = build.host().library.with_name("liblite_plugins_trt9.so")
    with pytest.raises(UserError, match="is for TensorRT 9, this host for TensorRT 1"):
        PluginHost(build.host().program, other).fields()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("case a\nend\n", ":2: a case needs a node line"),
        ("case a\nnode X 1 -\n", ":2: the last case has no end"),
        ("case a\nnode X 1 -\ninput FLOAT\nrun 1,x ->\nend\n", ":4: bad shape '1,x'"),
        ("case a\nnode X 1 -\ninput FLOAT\nrun ->\nend\n", ":4: a run needs a shape for every"),
        ("case a\nattribute k INT x\nend\n", ":2: bad attribute value"),
        ("case a\ninput QUARTER\nend\n", ":2: unknown type 'QUARTER'"),
        ("node X 1 -\n", ":1: 'node' outside a case"),
    ],
)
def test_bad_case_file(host: PluginHost, tmp_path, text: str, complaint: str) -> None:
    path = tmp_path / "cases"
    path.write_text(text)
    command = [host.program, host.library, "--cases", path]
    reply = subprocess.run(command, capture_output=True, text=True)
    assert reply.returncode == 2
    assert reply.stderr == f"error: {path}{complaint}" + reply.stderr.partition(complaint)[2]


def test_random_cases_under_sanitizers(build: PluginBuild) -> None:
    rng = random.Random(20)
    planned = [cases.drawn(rng, number, data=False) for number in range(DRAWN_CASES)]
    planned = [cases.spoiled(rng, p) if rng.random() < 0.2 else p for p in planned]
    for plan, outcome in zip(planned, play(build.host("_asan"), planned), strict=True):
        assert outcome.result == ("passed" if plan.allowed else "refused"), (plan, outcome)
    assert {plan.allowed for plan in planned} == {True, False}


@pytest.mark.gpu
def test_usual_cases_compute(host: PluginHost) -> None:
    compute(host, cases.usual(data=True))


@pytest.mark.gpu
def test_random_cases_compute(host: PluginHost) -> None:
    rng = random.Random(21)
    compute(host, [cases.drawn(rng, number, data=True) for number in range(DRAWN_GPU_CASES)])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", cases.DATA_TYPES, ids=str)
def test_nan_and_infinity_go_where_they_go_in_pytorch(host: PluginHost, dtype: torch.dtype) -> None:
    given = {"dtype": dtype, "seed": 3, "specials": True}
    conv = {"heads": 4, "kernel": 5, "padding_l": 2}
    planned = [
        cases.conv([(2, 24, 70)], **conv, **given),
        cases.fused_conv([(2, 70, 24)], **conv, mask=True, **given),
        cases.layer_norm([(60, 40)], residual=True, **given),
        cases.top_k([(5, 999)], k=32, **given),
    ]
    compute(host, planned)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", cases.DATA_TYPES, ids=str)
def test_threads_at_different_lengths_do_not_disturb_each_other(
    host: PluginHost, dtype: torch.dtype
) -> None:
    """Every launch needs more shared memory than the default; each thread needs a different amount."""
    given = {"dtype": dtype, "seed": 5}
    planned = [
        cases.crf_decode([(1, length, 32)], vocab=97, rank=8, name=f"crf-{length}", **given)
        for length in (3, 20, 45, 64)
    ]
    planned += [
        cases.fused_conv(
            [(1, length, 64)], heads=1, kernel=kernel, padding_l=0, name=f"fused-{length}", **given
        )
        for length, kernel in ((16, 255), (11, 220))
    ]
    compute(host, planned, at_once=2000)


def compute(host: PluginHost, planned: list[Planned], at_once: int = 0) -> None:
    outcomes = host.play([plan.case for plan in planned], at_once=at_once)
    for plan, outcome in zip(planned, outcomes, strict=True):
        assert outcome.result == "passed", outcome
        assert outcome.enqueued
        for given_run, expected_run in zip(outcome.outputs, plan.references, strict=True):
            for given, expected in zip(given_run, expected_run, strict=True):
                check(plan.case, given, expected)


def play(host: PluginHost, planned: list[Planned]) -> list[Outcome]:
    return host.play([plan.case for plan in planned])
