"""Tables of the ONNX operators that TensorRT imports, and of the cases that it refuses.

The operators come from the installed TensorRT (``OnnxParser.supports_operator``), or else from the table
``KNOWN``, which lists those of TensorRT RTX 1.7.1. The other tables list cases that ONNX allows and the
parser or the builder of 1.7.1 refuses. Tests compare all tables with the installed library.
"""

import onnx

from trt_code.lint import library

T = onnx.TensorProto

_KNOWN = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BlackmanWindow Cast CastLike CausalConvWithState Ceil Celu Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp
    Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow
    HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization
    LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression
    NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND
    Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
    Upsample Where Xor
"""
KNOWN = frozenset(_KNOWN.split())

# Element types that graph inputs and outputs cannot have.
NO_TYPE = frozenset((T.INT16, T.UINT16, T.UINT32, T.UINT64, T.STRING, T.COMPLEX64, T.COMPLEX128))
# TensorRT imports these with a plugin that TensorRT RTX does not include.
NEEDS_PLUGIN = frozenset(["NonZero"])
_INTEGERS = frozenset((T.INT32, T.INT64))
# Input types that ONNX allows and the importer refuses.
REFUSED_TYPES: dict[str, frozenset[int]] = {
    "Gemm": _INTEGERS,
    "MatMul": _INTEGERS,
    "Relu": frozenset((T.INT32,)),
}
# Inputs that the importer reads while it builds the network, so they must be constants.
CONSTANT_INPUTS = {
    "CumSum": {1: "axis"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
    **{name: {1: "axes"} for name in sorted(KNOWN) if name.startswith("Reduce")},
}


def supported() -> frozenset[str]:
    """The ONNX operators that the installed TensorRT imports, or ``KNOWN`` if none is installed."""
    trt = library.installed()
    return KNOWN if trt is None else library.operators_of(trt)
