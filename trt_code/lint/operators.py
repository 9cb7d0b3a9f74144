"""Which ONNX operators TensorRT 10 imports, and for which types of their first input.

From onnx-tensorrt's operator table and its importers (release 10.1, operator sets 9 to 20); where the
two differ the importers' source was followed (Clip takes integers, ReverseSequence no BOOL). FP32 stands
for FP32, FP16 and BF16; DOUBLE is left out, TensorRT narrows it.
"""

import onnx

T = onnx.TensorProto
FLOAT = frozenset((T.FLOAT, T.FLOAT16, T.BFLOAT16))
NUMBER = FLOAT | {T.INT32, T.INT64}
ANY = NUMBER | {T.BOOL}
BOOL = frozenset((T.BOOL,))

_FLOAT = """
    Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Conv ConvTranspose Cos Cosh
    CumSum DeformConv Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    GridSample GroupNormalization GRU Hardmax HardSigmoid HardSwish ImageScaler InstanceNormalization
    IsInf LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool LRN LSTM MatMul MaxPool
    MeanVarianceNormalization Mish NonMaxSuppression NonZero ParametricSoftplus Pow PRelu QuantizeLinear
    Reciprocal Resize RNN RoiAlign Round ScaledTanh Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt
    Tan Tanh ThresholdedRelu Upsample
"""
_NUMBER = """
    Abs Add ArgMax ArgMin Clip DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual
    Max Mean Min Mod Mul Neg Pad RandomNormalLike RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    ReverseSequence Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
"""
_ANY = """
    Cast CastLike Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND
    Identity If Loop OneHot RandomNormal RandomUniform Reshape Scan Shape Size Slice Split Squeeze Tile
    Transpose Trilu Unsqueeze Where
"""
_BOOL = "And Not Or Xor"

SUPPORTED: dict[str, frozenset[int]] = {
    name: types
    for names, types in ((_FLOAT, FLOAT), (_NUMBER, NUMBER), (_ANY, ANY), (_BOOL, BOOL))
    for name in names.split()
} | {"DequantizeLinear": frozenset((T.INT8, T.FLOAT8E4M3FN, T.INT4))}

OPSETS = range(9, 21)

# Inputs that the importer reads while it builds the network, so they must be constants.
CONSTANT_INPUTS = {
    "CumSum": {1: "axis"},
    "Slice": {3: "axes"},
    "Squeeze": {1: "axes"},
    "TopK": {1: "k"},
    "Unsqueeze": {1: "axes"},
    **{name: {1: "axes"} for name in SUPPORTED if name.startswith("Reduce")},
}
# Inputs that make a shape: what they hold must follow from shapes and constants alone.
SHAPE_INPUTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1,),
    "RandomNormal": (0,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 4),
    "Split": (1,),
    "Tile": (1,),
}
# What TensorRT computes on shapes; through these a value stays one that follows from shapes.
_ON_SHAPES = """
    Add And Cast Ceil Clip Concat Constant ConstantOfShape Div Equal Expand Flatten Floor Gather Greater
    Identity Less Max Min Mod Mul Neg Not Or Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape Slice
    Squeeze Sub Unsqueeze Where
"""
SHAPE_ARITHMETIC = frozenset(_ON_SHAPES.split())
