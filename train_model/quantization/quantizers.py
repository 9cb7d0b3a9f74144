"""nvidia-modelopt's quantisers on the project's networks: symmetric INT8, weights by row, inputs by tensor.

Their arithmetic is ``lite::fake_quantize``, as a backend of modelopt. So calibration and training compute
bit for bit the same as a quantised checkpoint and its export. It also avoids modelopt's CUDA extension, which
would be compiled at the first use on a GPU.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from train_model.cli import UserError
from train_model.ops import fake_quantize

_BACKEND = "lite"


@functools.cache
def load_modelopt() -> ModuleType:
    """Import ``modelopt.torch.quantization``, with the project's arithmetic as a backend.

    Raises:
        UserError: nvidia-modelopt is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unused optional packages
            import modelopt.torch.quantization as modelopt
            from modelopt.torch.quantization.nn.modules import tensor_quantizer
    except ImportError as error:
        raise UserError(
            f"nvidia-modelopt cannot be imported ({error}); install it: "
            "pip install -r requirements/int8.lock"
        ) from error
    tensor_quantizer.register_quant_backend(_BACKEND, _fake_quantize)
    return modelopt


def insert(model: nn.Module, names: Iterable[str], *, histogram: bool = False) -> nn.Module:
    """Insert quantisers, without scales yet, into the linear layers ``names`` of ``model``, in place.

    Args:
        model: a network of plain linear layers.
        names: the layers to quantise; every other module computes as before.
        histogram: collect histograms of the inputs in calibration, not just their largest magnitude.

    Raises:
        UserError: nvidia-modelopt is not installed.
    """
    modelopt = load_modelopt()
    common = {"num_bits": 8, "backend": _BACKEND}
    inputs = common | {"axis": None, "calibrator": "histogram" if histogram else "max"}
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for name in names:
        rules += [
            {"quantizer_name": f"{name}.weight_quantizer", "cfg": common | {"axis": 0}},
            {"quantizer_name": f"{name}.input_quantizer", "cfg": inputs},
        ]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return modelopt.quantize(model, {"quant_cfg": rules, "algorithm": None})


def _fake_quantize(x: Tensor, quantizer: Any) -> Tensor:
    amax = quantizer.amax.to(x)
    if amax.dim() == 0:
        return fake_quantize(x, amax, -1)
    return fake_quantize(x, amax.flatten(), 0)
