"""Muon for weights that act as matrices, AdamW for all others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MUON_RATE = 20.0
"""Muon's learning rate in AdamW's: its updates have the norm of the rate itself, whatever the gradient."""


class MuonAdamW:
    """Both optimisers as one. Convolutions are matrices from all they read to their output channels.

    Args:
        parameters: All that are trained.
        matrices: Those of them that Muon takes; they have two dimensions or more.
        rate: Peak learning rate of AdamW.
        decay: Weight decay of AdamW.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], matrices: list[nn.Parameter], rate: float, decay: float
    ) -> None:
        taken = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in parameters if id(parameter) not in taken]
        self._rate = rate
        self._matrices = [(weight, nn.Parameter(_as_matrix(weight.data, weight))) for weight in matrices]
        self._muon = torch.optim.Muon([view for _, view in self._matrices], lr=MUON_RATE * rate, weight_decay=0.01)
        on_gpu = any(parameter.is_cuda for parameter in others)
        self._adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=on_gpu)

    @property
    def state(self) -> Any:
        """AdamW's, by parameter; Muon's momentum builds up anew in some twenty steps."""
        return self._adamw.state

    def set_rate(self, share: float) -> float:
        """Set both learning rates to a share of their peaks; returns AdamW's."""
        for optimiser, peak in ((self._muon, MUON_RATE * self._rate), (self._adamw, self._rate)):
            for group in optimiser.param_groups:
                group["lr"] = peak * share
        return self._rate * share

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._adamw.zero_grad(set_to_none=True)
        for weight, _ in self._matrices:
            weight.grad = None

    def step(self) -> None:
        """Change the weights by their gradients."""
        for weight, view in self._matrices:
            view.grad = None if weight.grad is None else _as_matrix(weight.grad, weight)
        self._muon.step()
        self._adamw.step()


def _as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """(out, ...) as (out, all others), in the order in memory of `weight`, of which it is a view."""
    if not weight.is_contiguous():  # channels last
        values = values.permute(0, 2, 3, 4, 1)
    return values.flatten(1)
