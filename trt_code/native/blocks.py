"""Writes the blocks that networks share as native operators: linear layers, attention, convolutions."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from train_model.models.layers import (
    DynamicConv,
    LearnedPositions,
    LightweightConv,
    MultiheadAttention,
    SinusoidalPositions,
)
from train_model.models.quantized import QuantizedLinear
from train_model.ops.fake_quantize import LARGEST
from trt_code.native.program import ACTIVATIONS, Program, Register, Stage

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "tanh": "tanh",
    "swish": "swish",
    "linear": "linear",
}
Positions = LearnedPositions | SinusoidalPositions
_MOST_PRODUCTS = 2**20
"""The most floats of a table of products: 4 MiB."""


class Embedded(NamedTuple):
    """What an embedding writes: a row of ``words`` [V, C], plus a row of ``positions`` [P, C]."""

    words: Tensor
    positions: Tensor


class Writer:
    """Adds operators to one stage of a program.

    Args:
        program: the program.
        stage: the stage.
        past: whether the stage is a step of a search, whose blocks read earlier positions from histories.
        padding_leaks: whether convolutions see padding next to a sentence as the projection of zeros, see
            ``NetworkConfig.padding_policy``.
    """

    def __init__(
        self, program: Program, stage: Stage, past: bool = False, padding_leaks: bool = False
    ) -> None:
        self.program, self.stage, self._past = program, stage, past
        self._padding_leaks = padding_leaks
        self._shared: dict[tuple[str, int], Register] = {}

    def register(self, name: str, columns: int) -> Register:
        """Return the register of this name and width; blocks that do not overlap in time share one."""
        key = name, columns
        if key not in self._shared:
            self._shared[key] = self.program.register(self.stage, columns)
        return self._shared[key]

    def inputs(self, columns: int) -> Register:
        """Return a new register for what later positions read: a history in a search."""
        return self.program.register(self.stage, columns, "history" if self._past else "rows")

    def embed(
        self, table: nn.Embedding, scale: float, positions: Positions | None, out: Register
    ) -> None:
        """Write the scaled vectors of the stage's tokens, plus those of their positions."""
        vectors = None if positions is None else array(positions.vectors)
        self.program.add("embed", self.stage, array(table.weight), vectors, float(scale), out)

    def positions(self, table: Positions, out: Register) -> None:
        """Write the vectors of the rows' positions."""
        self.program.add("positions", self.stage, array(table.vectors), out)

    def add(self, x: Register, out: Register) -> None:
        """Add ``x`` to ``out``."""
        self.program.add("add", self.stage, x, x.columns, out)

    def linear(
        self,
        x: Register,
        layers: nn.Linear | Sequence[nn.Linear],
        out: Register,
        *,
        in_column: int = 0,
        out_column: int = 0,
        activation: str = "linear",
        scale: float = 1.0,
        past: bool = False,
        order: Tensor | slice = slice(None),
    ) -> None:
        """Apply linear layers to the same input, and write their outputs one after the other.

        Args:
            activation: fairseq's name.
            scale: a factor of the outputs before the activation.
            past: whether ``out`` may be a history.
            order: the numbers of the outputs of each layer, in the order in which they are written.
        """
        layers = [layers] if isinstance(layers, nn.Linear) else layers
        for _, group in itertools.groupby(layers, _input_scale):  # those that read the input alike
            alike = list(group)
            first = alike[0]
            biased = any(layer.bias is not None for layer in alike)
            biases = torch.cat([_bias(layer)[order] for layer in alike])
            bias = array(biases * scale) if biased else None
            end = (ACTIVATIONS.index(_ACTIVATIONS[activation]), out, out_column)
            weight = torch.cat([layer.weight[order] for layer in alike])
            if isinstance(first, QuantizedLinear):
                ranges = torch.cat([layer.weight_quantizer.amax[order] for layer in alike])
                scales = ranges / LARGEST
                rounded = (weight / scales[:, None]).round().clamp(-LARGEST - 1, LARGEST)
                name = "integer_linear"
                values = [rounded.detach().to(torch.int8).numpy(), array(scales * scale), bias]
                values.append(_input_scale(first))
            else:
                name, values = "linear", [array(weight * scale), bias]
            self.program.add(
                name, self.stage, x, in_column, *values, *end, int(past and self._past)
            )
            out_column += len(weight)

    def norm(
        self, layer: nn.LayerNorm, x: Register, out: Register, residual: Register | None = None
    ) -> None:
        """Normalise ``x``, or the sum of ``x`` and ``residual``."""
        self.program.add(
            "norm",
            *(self.stage, x, -1 if residual is None else residual),
            *(array(layer.weight), array(layer.bias), float(layer.eps), out),
        )

    def residual(
        self,
        norm: nn.LayerNorm,
        x: Register,
        normalize_before: bool,
        branch: Callable[[Register, Register], None],
    ) -> None:
        """Add a branch of ``x`` to ``x``; ``branch(input, output)`` writes its operators."""
        y = self.register("branch", x.columns)
        if normalize_before:
            normed = self.register("normed", x.columns)
            self.norm(norm, x, normed)
            branch(normed, y)
            self.add(y, x)
        else:
            branch(x, y)
            self.norm(norm, y, x, residual=x)

    def feed_forward(
        self, fc1: nn.Linear, fc2: nn.Linear, activation: str, x: Register, y: Register
    ) -> None:
        """Write two linear layers with an activation between them."""
        hidden = self.register("hidden", fc1.out_features)
        self.linear(x, fc1, hidden, activation=activation)
        self.linear(hidden, fc2, y)

    def linear_of(self, embedded: Embedded, layer: nn.Linear, out: Register) -> bool:
        """Apply a linear layer to an embedding: ``out`` is the sum of two rows of products.

        Returns:
            False if nothing was written, because the layer is quantised or the products are too many.
        """
        words, positions = embedded
        if _input_scale(layer) is not None or len(words) * layer.out_features > _MOST_PRODUCTS:
            return False
        weight = layer.weight.T
        tables = array(words @ weight), array(positions @ weight + _bias(layer))
        self.program.add("embed", self.stage, *tables, 1.0, out)
        return True

    def gated(
        self,
        x: Register,
        layer: nn.Linear,
        glu: bool,
        out: Register,
        *,
        in_column: int = 0,
        past: bool = True,
        embedded: Embedded | None = None,
    ) -> None:
        """Write a linear layer and its gate, if it has one.

        Args:
            past: whether ``out`` may be a history.
            embedded: what ``x`` has, if it is an embedding.
        """
        if not glu:
            self.linear(x, layer, out, in_column=in_column, past=past)
            return
        both = self.register("gated", layer.out_features)
        if embedded is None or not self.linear_of(embedded, layer, both):
            self.linear(x, layer, both, in_column=in_column)
        self.program.add("glu", self.stage, both, out.columns, out, int(past and self._past))

    def convolution(
        self,
        module: DynamicConv | LightweightConv,
        x: Register,
        y: Register,
        out_column: int = 0,
    ) -> None:
        """Convolve ``x``, a register of :meth:`inputs`, and apply the projection after it."""
        taps, fixed = -1, None
        if isinstance(module, DynamicConv):
            taps = self.register("taps", module.heads * module.kernel_size)
            numbers = torch.arange(taps.columns).view(module.heads, module.kernel_size)
            self.linear(x, module.weight_linear, taps, order=numbers.T.flatten())
        else:
            fixed = array(module.weight[:, 0].T)
        padding = None
        if self._padding_leaks:
            padding = array(module.project_in(module.linear1.weight.new_zeros(1, module.width))[0])
        direct = module.linear2 is None
        out = y if direct else self.register("convolved", module.width)
        options = (fixed, padding, int(module.weight_softmax))
        shape = (module.heads, module.kernel_size, module.padding_l)
        end = (out, out_column if direct else 0, int(self._past))
        self.program.add("convolve", self.stage, x, module.width, taps, *options, *shape, *end)
        if not direct:
            self.linear(out, module.linear2, y, out_column=out_column)

    def self_attention(
        self, module: MultiheadAttention, x: Register, y: Register, column: int = 0
    ) -> None:
        """Attend from columns of ``x`` to the same columns of the sequence; write those of ``y``."""
        width = module.q_proj.out_features
        query, out = self.register("query", width), self.register("attended", width)
        pairs = self.inputs(2 * width)
        self.linear(x, module.q_proj, query, in_column=column, scale=module.scale)
        self.linear(x, [module.k_proj, module.v_proj], pairs, in_column=column, past=True)
        heads = (module.heads, width // module.heads)
        self.program.add("attend_self", self.stage, query, pairs, *heads, out, int(self._past))
        self.linear(out, module.out_proj, y, out_column=column)

    def copy(self, x: Register, column: int, out: Register) -> None:
        """Copy columns of ``x`` to ``out``, a register of :meth:`inputs`."""
        self.program.add("copy", self.stage, x, column, out.columns, out, int(self._past))


class SourceKeys:
    """The source's keys and values for every layer's attention, and that attention.

    Args:
        source: writes to the source's stage.
        x: the encoder's output.
        modules: the attention of each layer.
    """

    def __init__(self, source: Writer, x: Register, modules: Iterable[MultiheadAttention]) -> None:
        self._modules = list(modules)
        projections = [p for m in self._modules for p in (m.k_proj, m.v_proj)]
        self._pairs = source.register("pairs", sum(p.out_features for p in projections))
        source.linear(x, projections, self._pairs)
        self._keys, column = [], 0
        self._values = []
        for module in self._modules:
            width = module.k_proj.out_features
            keys = source.program.register("source", width, "keys")
            heads = (module.heads, width // module.heads)
            source.program.add("keys", self._pairs, column, *heads, keys)
            self._keys.append(keys)
            self._values.append(column + width)
            column += 2 * width

    def attend(self, target: Writer, layer: int, x: Register, y: Register) -> None:
        """Write the attention of ``layer`` from ``x`` to the source."""
        module = self._modules[layer]
        width = module.q_proj.out_features
        query, out = target.register("query", width), target.register("attended", width)
        target.linear(x, module.q_proj, query, scale=module.scale)
        target.program.add(
            "attend_source",
            *(query, self._keys[layer], self._pairs, self._values[layer]),
            *(module.heads, width // module.heads, out),
        )
        target.linear(out, module.out_proj, y)


def _input_scale(layer: nn.Linear) -> float | None:
    """The scale of a quantised layer's input; None for a layer in floating point."""
    return (
        layer.input_quantizer.amax.item() / LARGEST if isinstance(layer, QuantizedLinear) else None
    )


def array(tensor: Tensor) -> np.ndarray:
    """A parameter as a float32 array."""
    return tensor.detach().float().cpu().numpy()


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
