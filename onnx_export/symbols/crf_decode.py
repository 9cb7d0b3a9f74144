"""``lite::crf_decode`` as ONNX sees it: the node ``LiteCrfDecode`` and its reference function."""

import onnx
from onnxscript import FLOAT, INT32, graph, script
from onnxscript import opset20 as op

from onnx_export.symbols.domain import LITE
from onnx_export.symbols.schema import Form, Operator, TensorSpec, Type


def translate(emissions: FLOAT, targets: INT32, E1: FLOAT, E2: FLOAT, mask: INT32):
    """Write one node for ``lite::crf_decode``: [B,T,K], [B,T,K], [V,R], [V,R], [B,T] -> [B,T], [B,T]."""
    return OPERATOR.exported(emissions, targets, E1, E2, mask)


# Two Scans, one along the sentence and one back. The second finds the best predecessor again, but only of
# the slot on the path. ONNX Runtime refuses a Scan without steps, which a sentence of one position would
# need. So a masked step is added at the end, which keeps the state and does not change the result. The
# positions are the first axis, so that no Scan has to transpose its input.
@script(LITE, default_opset=op)
def LiteCrfDecode(emissions: FLOAT, targets: INT32, E1: FLOAT, E2: FLOAT, mask: INT32):
    """Viterbi in FP32, whatever the precision of the node, as the CUDA kernel does."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    last = op.Constant(value_ints=[-1])
    end = op.Constant(value_ints=[2147483647])

    # positions first, as the Scans take them
    values = op.Transpose(op.Cast(emissions, to=onnx.TensorProto.FLOAT), perm=[1, 0, 2])
    words = op.Transpose(targets, perm=[1, 0, 2])
    first_score = op.Squeeze(op.Slice(values, zero, one, zero), zero)
    next_values = op.Concat(
        op.Slice(values, one, end, zero), op.Slice(values, zero, one, zero), axis=0
    )
    next_words = op.Concat(
        op.Slice(words, one, end, zero), op.Slice(words, zero, one, zero), axis=0
    )
    next_mask = op.Pad(
        op.Slice(op.Transpose(mask, perm=[1, 0]), one, end, zero),
        op.Constant(value_ints=[0, 0, 1, 0]),
    )
    real = op.Cast(op.Unsqueeze(next_mask, two), to=onnx.TensorProto.BOOL)

    # [T, B, K, K]: the score of reaching slot i at t + 1 from slot j at t
    source = op.Cast(op.Gather(E1, words), to=onnx.TensorProto.FLOAT)
    target = op.Cast(op.Gather(E2, next_words), to=onnx.TensorProto.FLOAT)
    transitions = op.MatMul(target, op.Transpose(source, perm=[0, 1, 3, 2]))

    @graph()
    def forward(score, transition, value, is_real):
        paths = op.Unsqueeze(score, op.Constant(value_ints=[1])) + transition
        best = op.ReduceMax(paths, op.Constant(value_ints=[2]), keepdims=0)
        prefix = op.Identity(score)
        new_score = op.Where(is_real, best + value, score)
        return new_score, prefix

    score, prefixes = op.Scan(
        first_score, transitions, next_values, real, body=forward, num_scan_inputs=3
    )

    @graph()
    def backward(slot, prefix, transition, is_real):
        path_score = op.GatherElements(prefix, slot, axis=1)
        paths = prefix + op.GatherND(transition, slot, batch_dims=1)
        previous = op.Where(is_real, op.ArgMax(paths, axis=1, keepdims=1), slot)
        chosen = op.Identity(previous)
        return previous, chosen, path_score

    _, slots, path_scores = op.Scan(
        op.ArgMax(score, axis=1, keepdims=1),
        prefixes,
        transitions,
        real,
        body=backward,
        num_scan_inputs=3,
        scan_input_directions=[1, 1, 1],
        scan_output_directions=[1, 1],
    )
    tokens = op.Transpose(op.Squeeze(op.GatherElements(words, slots, axis=2), two), perm=[1, 0])
    path_scores = op.Transpose(op.Squeeze(path_scores, two), perm=[1, 0])
    before = op.Pad(op.Slice(path_scores, zero, last, one), op.Constant(value_ints=[0, 1, 0, 0]))
    return tokens, path_scores - before


OPERATOR = Operator(
    "LiteCrfDecode",
    "Viterbi decoding of a CRF over the K best tokens of each position; transitions are E1[i] . E2[j].",
    forms=[
        Form(
            inputs=[
                TensorSpec("emissions", Type.DATA, "B T K"),
                TensorSpec("targets", Type.INT32, "B T K"),
                TensorSpec("E1", Type.DATA, "V R"),
                TensorSpec("E2", Type.DATA, "V R"),
                TensorSpec("mask", Type.INT32, "B T"),
            ],
            outputs=[
                TensorSpec("tokens", Type.INT32, "B T"),
                TensorSpec("scores", Type.FP32, "B T"),
            ],
            functions=[LiteCrfDecode],
        )
    ],
)
