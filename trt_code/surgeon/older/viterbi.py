"""Turns a Viterbi loop that an exporter unrolled into one ``LiteCrfDecode``.

The unrolled form has a dozen nodes per position and a fixed length. The loop is fairseq's (DynamicCRF). The
pass follows it from the last position to the first, and replaces it only if every step has the expected form.

    step t:  paths = Unsqueeze(score, 2) + transitions[:, t-1]
             score = Where(mask[:, t:t+1], ReduceMax(paths, 1) + emissions[:, t], score)
    back:    slot  = GatherElements(Where(mask[:, t:t+1], ArgMax(paths, 1), identity), slot of t+1)
"""

import dataclasses

import onnx_ir as ir

from trt_code.surgeon.graph import (
    Pass,
    attribute,
    axes_of,
    cast,
    constant,
    is_scalar,
    made_by,
    on_each,
    on_last_axis,
    plugin_node,
    replace,
)


@dataclasses.dataclass(frozen=True)
class _Loop:
    """The inputs and outputs of an unrolled loop."""

    emissions: ir.Value
    targets: ir.Value
    E1: ir.Value
    E2: ir.Value
    mask: ir.Value
    tokens: ir.Value
    scores: ir.Value


@on_each("TopK")
def roll_up(model: ir.Model, node: ir.Node) -> bool:
    """Replace every unrolled loop over the candidates of a TopK."""
    loop = _match(node)
    if loop is None:
        return False
    _replace_loop(model, loop)
    return True


def _match(top_k: ir.Node) -> _Loop | None:
    emissions, targets = top_k.outputs
    chosen = next(
        (use.node for use in targets.uses() if use.node.op_type == "GatherElements"), None
    )
    if chosen is None or not on_last_axis(top_k, attribute(top_k, "axis", -1)):
        return None
    slots = made_by(chosen.inputs[1], "Unsqueeze")
    slots = made_by(slots.inputs[0], "Concat") if slots else None
    tokens = _squeezed(chosen.outputs[0], 2)
    tables = _tables(targets)
    if slots is None or tokens is None or tables is None:
        return None
    # the last slot is the ArgMax of the last score, from which the search goes back through the loop
    last = made_by(slots.inputs[-1], "Unsqueeze")
    best = made_by(last.inputs[0], "ArgMax") if last else None
    if best is None:
        return None
    steps = _steps(best.inputs[0], emissions)
    if steps is None or len(steps) != len(slots.inputs) - 1:
        return None
    scores = _score_differences(steps, best.inputs[0])
    masks = {mask for _, mask in steps}
    if scores is None or len(masks) != 1:
        return None
    return _Loop(emissions, targets, *tables, masks.pop(), tokens, scores)


def _steps(score: ir.Value, emissions: ir.Value) -> list[tuple[ir.Value, ir.Value]] | None:
    """Return for t = 1, 2, ... the score before the step and the mask; None for an unexpected form."""
    steps = []
    while (where := made_by(score, "Where")) is not None:
        condition, update, score = where.inputs
        mask = made_by(condition, "Slice")
        add = made_by(update, "Add")
        if mask is None or add is None:
            return None
        best = next((node for v in add.inputs if (node := made_by(v, "ReduceMax"))), None)
        if best is None or axes_of(best) != [1]:
            return None
        paths = made_by(best.inputs[0], "Add")
        previous = {made_by(v, "Unsqueeze") for v in paths.inputs} - {None} if paths else set()
        if len(previous) != 1 or previous.pop().inputs[0] is not score:
            return None
        steps.append((score, mask.inputs[0], _at(mask), add))
    first = made_by(score, "Gather")
    if first is None or first.inputs[0] is not emissions or not is_scalar(first.inputs[1], 0):
        return None
    steps.reverse()
    for t, (_, _, start, add) in enumerate(steps, start=1):
        gathered = [node for v in add.inputs if (node := made_by(v, "Gather"))]
        reads = [node for node in gathered if node.inputs[0] is emissions]
        if start != t or len(reads) != 1 or not is_scalar(reads[0].inputs[1], t):
            return None
    return [(score, mask) for score, mask, _, _ in steps]


def _at(node: ir.Node) -> int | None:
    """Return the start of a Slice of one position on axis 1, or None."""
    start, end, axes = (constant(value) for value in node.inputs[1:4])
    if start is None or end is None or axes is None or axes.tolist() != [1]:
        return None
    return int(start.item()) if end.item() == start.item() + 1 else None


def _tables(targets: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """Return E1 and E2, which the candidates of all positions but the last, and but the first, index."""
    tables: dict[int, ir.Value] = {}
    for piece, _ in targets.uses():
        if piece.op_type != "Slice" or constant(piece.inputs[1]) is None:
            continue
        for reader, index in piece.outputs[0].uses():
            if reader.op_type == "Gather" and index == 1 and constant(reader.inputs[0]) is not None:
                tables[int(constant(piece.inputs[1]).item())] = reader.inputs[0]
    return (tables[0], tables[1]) if set(tables) == {0, 1} else None


def _squeezed(value: ir.Value, axis: int) -> ir.Value | None:
    """Return ``value`` without ``axis``, after a Squeeze or a Gather of the only element."""
    for node, _ in value.uses():
        if node.op_type == "Squeeze" and axes_of(node) == [axis]:
            return node.outputs[0]
        if node.op_type == "Gather" and attribute(node, "axis", 0) == axis:
            return node.outputs[0] if is_scalar(node.inputs[1], 0) else None
    return None


def _score_differences(steps: list, last_score: ir.Value) -> ir.Value | None:
    """Return the output that holds the differences of the path's scores.

    The path's scores are a Concat of GatherElements of the scores before each step and the best of the
    last; an assignment to a slice, which is a ScatterND, makes differences of them.
    """
    first = steps[0][0]
    for gather, index in first.uses():
        if gather.op_type != "GatherElements" or index != 0:
            continue
        for concat, _ in gather.outputs[0].uses():
            if concat.op_type != "Concat" or not _is_path(concat, steps, last_score):
                continue
            for scatter, position in concat.outputs[0].uses():
                if scatter.op_type == "ScatterND" and position == 0 and _subtracts(scatter, concat):
                    return scatter.outputs[0]
    return None


def _is_path(concat: ir.Node, steps: list, last_score: ir.Value) -> bool:
    *gathers, end = (value.producer() for value in concat.inputs)
    if len(gathers) != len(steps) or end is None or end.op_type != "Unsqueeze":
        return False
    best = made_by(end.inputs[0], "ReduceMax")
    return (
        best is not None
        and best.inputs[0] is last_score
        and all(
            gather is not None and gather.op_type == "GatherElements" and gather.inputs[0] is score
            for gather, (score, _) in zip(gathers, steps, strict=True)
        )
    )


def _subtracts(scatter: ir.Node, concat: ir.Node) -> bool:
    """Whether the updates are the path's scores without the first minus those without the last."""
    node = scatter.inputs[2].producer()
    while node is not None and node.op_type in ("Reshape", "Expand"):
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Sub":
        return False
    pieces = [made_by(value, "Slice") for value in node.inputs]
    if None in pieces or any(piece.inputs[0] is not concat.outputs[0] for piece in pieces):
        return False
    return [int(constant(piece.inputs[1]).item()) for piece in pieces] == [1, 0]


def _replace_loop(model: ir.Model, loop: _Loop) -> None:
    """Put the operator before the first reader of the tokens."""
    before = loop.scores.producer()
    int32 = ir.DataType.INT32

    def to_int32(value: ir.Value) -> ir.Value:
        return cast(model, before, value, int32, f"{value.name}.int32")

    decode = plugin_node(
        model,
        before,
        "LiteCrfDecode",
        [loop.emissions, to_int32(loop.targets), loop.E1, loop.E2, to_int32(loop.mask)],
        name=f"{before.name}.crf_decode",
        outputs=[(int32, loop.mask.shape), (ir.DataType.FLOAT, loop.mask.shape)],
    )
    tokens = cast(model, before, decode.outputs[0], ir.DataType.INT64, f"{decode.name}.tokens")
    replace(model, loop.scores, decode.outputs[1])
    replace(model, loop.tokens, tokens)
    model.graph.sort()


PASSES = [Pass("viterbi", "unrolled Viterbi to LiteCrfDecode", roll_up)]
