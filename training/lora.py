"""Low-rank adapters for the frozen decoder, laid out for speed on a CPU.

The usual implementation casts every activation to float32 and back, which cost more here than the matrix products
themselves. These layers stay in the base's bfloat16 and fuse the sum; only the adapter's weights are float32.
"""

from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

RANK: Final = 16
SCALE: Final = 2.0
LAYERS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """A frozen linear layer plus ``SCALE · B · A`` of rank `RANK`; B starts at zero."""

    def __init__(self, base: nn.Linear) -> None:
        """Wrap ``base``, which has no bias."""
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.empty(RANK, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, RANK))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``(..., out)`` for ``(..., in)`` in the base's dtype."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        down = functional.linear(flat, self.lora_A.to(flat.dtype))
        up = (self.lora_B * SCALE).to(flat.dtype)
        summed = torch.addmm(functional.linear(flat, self.base.weight), down, up.t())
        return summed.reshape(*inputs.shape[:-1], summed.shape[-1])


def add_adapters(llm: Any) -> None:
    """Freeze ``llm`` and put an adapter on every attention and MLP projection."""
    llm.requires_grad_(False)
    for module in list(llm.modules()):
        for name in LAYERS:
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Linear):
                setattr(module, name, LoraLinear(layer))
