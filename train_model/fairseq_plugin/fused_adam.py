"""``--optimizer fused_adam``: PyTorch's fused AdamW, and gradient norms in a few kernels.

fairseq's own ``adam`` updates, scales and clips parameter by parameter, which for a small network costs
the GPU's host more time than the network itself, and its fused variant needs NVIDIA's apex. The options
are those of ``adam``; the update is the same but for the place of epsilon, which PyTorch adds after the
bias correction.
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
        """Yes: every weight is updated by itself."""
        return True

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.params if parameter.grad is not None]

    def multiply_grads(self, c: float | Tensor) -> None:
        """Scale all gradients."""
        torch._foreach_mul_(self._gradients(), c)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn=None) -> Tensor:
        """Clip the gradients to ``max_norm`` (0: only measure); returns their norm before."""
        if aggregate_norm_fn is not None:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        return torch.nn.utils.clip_grad_norm_(self.params, max_norm or math.inf)
