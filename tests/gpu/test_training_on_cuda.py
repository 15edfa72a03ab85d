"""Training on a CUDA device: recorded gradients are those that computing makes."""

from __future__ import annotations

import pytest
import torch

from dev.train_demo.gradients import Gradients

pytestmark = pytest.mark.gpu


def test_replayed_gradients_are_of_the_inputs_and_weights_of_each_call() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 1)).cuda()
    weights = list(net.parameters())

    def loss(x: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = net(x).square().mean()
        return mean

    recorded = Gradients(loss, weights)
    for _ in range(3):
        x = torch.randn(16, 32, device="cuda")
        found = recorded(x).clone()
        made = [weight.grad.clone() for weight in weights if weight.grad is not None]
        expected = torch.autograd.grad(wanted := loss(x), weights)
        norm = torch.cat([gradient.flatten() for gradient in expected]).norm().clamp(min=1.0)

        assert torch.allclose(found, wanted)
        for one, other in zip(made, expected, strict=True):
            assert torch.allclose(one, other / norm, rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            for weight in weights:
                weight.add_(torch.randn_like(weight), alpha=0.1)


def test_recorded_computations_draw_new_random_numbers_every_time() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, device="cuda"))
    recorded = Gradients(lambda x: (weight * torch.randn_like(x)).sum() + x.sum(), [weight], most=1e9)
    seen = []
    for _ in range(2):
        recorded(torch.zeros(8, device="cuda"))
        assert weight.grad is not None
        seen.append(weight.grad.clone())

    assert not torch.equal(*seen)
