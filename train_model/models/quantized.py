"""Linear layers of a quantised checkpoint: computed in floating point, with INT8's rounding.

The keys in the state dict are nvidia-modelopt's, ``<layer>.input_quantizer._amax`` and
``<layer>.weight_quantizer._amax``, so that networks calibrated or trained with it load here without it. The
export writes the rounding as QuantizeLinear and DequantizeLinear (onnx_export/symbols/fake_quantize.py).
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from train_model.ops import fake_quantize


class Quantizer(nn.Module):
    """Rounds a tensor to INT8; 127 represents the magnitude ``_amax``, [] or [N, 1] (rows)."""

    def __init__(self, rows: int | None = None) -> None:
        super().__init__()
        self.register_buffer("_amax", torch.ones((rows, 1) if rows else ()))

    @property
    def amax(self) -> Tensor:
        """[] or [N]."""
        return self._amax.flatten() if self._amax.dim() else self._amax

    def forward(self, x: Tensor, axis: int = -1) -> Tensor:
        """``x`` rounded, with one scale for all of it or one for each entry of ``axis``."""
        return fake_quantize(x, self.amax, axis)


class QuantizedLinear(nn.Linear):
    """A linear layer with one scale for its input and one per row (output channel) of its weight."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.input_quantizer = Quantizer()
        self.weight_quantizer = Quantizer(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[.., in] -> [.., out]."""
        # The transposed weight is quantised, so that an exported graph keeps it as INT8 [in, out].
        weight = self.weight_quantizer(self.weight.t(), axis=1)
        y = self.input_quantizer(x) @ weight
        return y if self.bias is None else y + self.bias


def is_quantizer(name: str) -> bool:
    """Whether an entry of a state dict belongs to a quantiser."""
    return name.endswith("_quantizer._amax")


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Every linear layer by its name, in the network's order."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear))


def replace_linears(model: nn.Module, names: Iterable[str], kind: type[nn.Linear]) -> None:
    """Replace the layers ``names`` of ``model`` in place; the new layers keep the weight tensors.

    Raises:
        ValueError: a name is not that of a linear layer.
    """
    known = dict(linears(model))
    for name in names:
        if name not in known:
            raise ValueError(f"there is no linear layer {name!r}")
        old = known[name]
        new = kind(old.in_features, old.out_features, old.bias is not None)
        new.weight, new.bias = old.weight, old.bias
        model.set_submodule(name, new)
