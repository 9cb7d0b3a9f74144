"""Mixed precision (``--bf16``, ``--fp16``): one flat FP32 copy of all weights, and copies in one call.

fairseq keeps FP32 master weights, and copies gradients to them and weights from them one parameter at a
time: three kernels for each of some hundred parameters. With ``--bf16`` its optimizer and clipping also loop
over all parameters. Here the master weights are one tensor in both modes, and each copy is one call.
"""

import torch
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from torch import Tensor, nn


def _build_masters(cls, args, params: list[nn.Parameter], flatten: bool = True):
    """Return one FP32 parameter with a gradient buffer, by device if fairseq requires that."""
    flat = nn.Parameter(torch.cat([parameter.data.float().flatten() for parameter in params]))
    flat.grad = torch.zeros_like(flat.data)
    return {flat.device.index: flat} if flatten else [flat]


def flat_master(optimizer: _FP16OptimizerMixin) -> nn.Parameter:
    """Return the FP32 copy of all weights [N], with its gradient."""
    masters = optimizer.fp32_params
    (flat,) = masters.values() if isinstance(masters, dict) else masters
    return flat


def _views(flat: Tensor, like: list[nn.Parameter]) -> list[Tensor]:
    """Return views of the flat tensor in the shapes of the network's parameters."""
    parts = flat.split([parameter.numel() for parameter in like])
    return [part.view_as(parameter) for part, parameter in zip(parts, like, strict=True)]


@torch.no_grad()
def _gradients_to_masters(self: _FP16OptimizerMixin) -> None:
    if self._needs_sync:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.fp16_params]
        torch._foreach_copy_(_views(flat_master(self).grad, self.fp16_params), gradients)
        self._needs_sync = False


@torch.no_grad()
def _masters_to_weights(self: _FP16OptimizerMixin) -> None:
    weights = [parameter.data for parameter in self.fp16_params]
    torch._foreach_copy_(weights, _views(flat_master(self).data, self.fp16_params))


def _zero_grad(self: _FP16OptimizerMixin) -> None:
    for parameter in self.fp16_params:
        parameter.grad = None  # the masters' gradients are overwritten as a whole
    self._needs_sync = False
    if self.scaler is not None:
        self._multiply_factor = 1.0 / float(self.scaler.loss_scale)


_FP16OptimizerMixin.build_fp32_params = classmethod(_build_masters)
_FP16OptimizerMixin._sync_fp16_grads_to_fp32 = _gradients_to_masters
_FP16OptimizerMixin._sync_fp32_params_to_fp16 = _masters_to_weights
_FP16OptimizerMixin.zero_grad = _zero_grad
