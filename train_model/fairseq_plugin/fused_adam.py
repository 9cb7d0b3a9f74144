"""``--optimizer fused_adam``: PyTorch's fused AdamW, and gradient norms with few kernel launches.

fairseq's ``adam`` updates, scales and clips parameter by parameter. For a small network that takes more host
time than the network itself. fairseq's fused variant needs NVIDIA's apex. The options are those of ``adam``.
The update is the same except that PyTorch adds epsilon after the bias correction.
"""

import math

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FusedAdam(FairseqAdam):
    """AdamW for CPU and CUDA."""

    def __init__(self, cfg: FairseqAdamConfig, params):
        FairseqOptimizer.__init__(self, cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)

    @property
    def supports_flat_params(self) -> bool:
        """Return True, since the update is elementwise."""
        return True

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.params if parameter.grad is not None]

    def multiply_grads(self, c: float | Tensor) -> None:
        """Scale all gradients."""
        torch._foreach_mul_(self._gradients(), c)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn=None) -> Tensor:
        """Clip the gradients to the norm ``max_norm``, if it is not 0; return their norm before."""
        if aggregate_norm_fn is not None:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        return torch.nn.utils.clip_grad_norm_(self.params, max_norm or math.inf)
