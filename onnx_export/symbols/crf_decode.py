"""``lite::crf_decode`` as ONNX sees it: the node ``LiteCrfDecode`` and its reference function."""

import onnx
from onnxscript import FLOAT, INT32, graph, script
from onnxscript import opset20 as op

from onnx_export.symbols.domain import LITE, operator

OPERATOR = operator(
    "LiteCrfDecode",
    inputs={
        "emissions": "T",
        "targets": "tensor(int32)",
        "E1": "T",
        "E2": "T",
        "mask": "tensor(int32)",
    },
    outputs={"tokens": "tensor(int32)", "scores": "tensor(float)"},
)


def translate(emissions: FLOAT, targets: INT32, E1: FLOAT, E2: FLOAT, mask: INT32):
    """Write one node for ``lite::crf_decode``: [B,T,K], [B,T,K], [V,R], [V,R], [B,T] -> [B,T], [B,T]."""
    return OPERATOR(emissions, targets, E1, E2, mask)


# Two Scans, one along the sentence and one back. ONNX Runtime refuses a Scan of no steps, which a
# sentence of one position would need, so one masked step stands at the end: a masked step keeps the
# state, and the result is the same.
@script(LITE, default_opset=op)
def LiteCrfDecode(emissions: FLOAT, targets: INT32, E1: FLOAT, E2: FLOAT, mask: INT32):
    """Viterbi in FP32, whatever the precision of the node, as the CUDA kernel does."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    last = op.Constant(value_ints=[-1])
    end = op.Constant(value_ints=[2147483647])

    wide = op.Cast(emissions, to=onnx.TensorProto.FLOAT)
    first_score = op.Squeeze(op.Slice(wide, zero, one, one), one)
    next_emissions = op.Concat(
        op.Slice(wide, one, end, one), op.Slice(wide, zero, one, one), axis=1
    )
    next_targets = op.Concat(
        op.Slice(targets, one, end, one), op.Slice(targets, zero, one, one), axis=1
    )
    next_mask = op.Pad(op.Slice(mask, one, end, one), op.Constant(value_ints=[0, 0, 0, 1]))
    real = op.Cast(op.Unsqueeze(next_mask, two), to=onnx.TensorProto.BOOL)
    beam = op.Squeeze(op.Shape(emissions, start=2, end=3))
    keep = op.Unsqueeze(op.Range(op.Constant(value_int=0), beam, op.Constant(value_int=1)), zero)

    # [B, T, K, K]: the score of reaching slot i at t + 1 from slot j at t
    source = op.Cast(op.Gather(E1, targets), to=onnx.TensorProto.FLOAT)
    target = op.Cast(op.Gather(E2, next_targets), to=onnx.TensorProto.FLOAT)
    transitions = op.MatMul(target, op.Transpose(source, perm=[0, 1, 3, 2]))

    @graph()
    def forward(score, transition, emission, is_real):
        paths = op.Unsqueeze(score, op.Constant(value_ints=[1])) + transition
        best = op.ReduceMax(paths, op.Constant(value_ints=[2]), keepdims=0)
        slot = op.ArgMax(paths, axis=2, keepdims=0)
        prefix = op.Identity(score)
        new_score = op.Where(is_real, best + emission, score)
        return new_score, prefix, op.Where(is_real, slot, keep)

    score, prefixes, pointers = op.Scan(
        first_score,
        transitions,
        next_emissions,
        real,
        body=forward,
        num_scan_inputs=3,
        scan_input_axes=[1, 1, 1],
    )

    @graph()
    def backward(slot, prefix, pointer):
        path_score = op.GatherElements(prefix, slot, axis=1)
        previous = op.GatherElements(pointer, slot, axis=1)
        chosen = op.Identity(previous)
        return previous, chosen, path_score

    _, slots, path_scores = op.Scan(
        op.ArgMax(score, axis=1, keepdims=1),
        prefixes,
        pointers,
        body=backward,
        num_scan_inputs=2,
        scan_input_directions=[1, 1],
        scan_output_directions=[1, 1],
        scan_output_axes=[1, 1],
    )

    tokens = op.Squeeze(op.GatherElements(targets, slots, axis=2), two)
    path_scores = op.Squeeze(path_scores, two)
    before = op.Pad(op.Slice(path_scores, zero, last, one), op.Constant(value_ints=[0, 1, 0, 0]))
    return tokens, path_scores - before
