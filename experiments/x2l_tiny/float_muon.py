"""Muon in float32: torch's own orthogonalises in bfloat16, 30 times slower on a CPU without it."""

from collections import defaultdict

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)
STEPS = 5


class FloatMuon(torch.optim.Optimizer):
    """As `torch.optim.Muon` with Nesterov momentum; matrices of one shape are done together."""

    def __init__(self, params, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        """Takes matrices only."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Updates every matrix that has a gradient."""
        for group in self.param_groups:
            shapes = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes[matrix.shape].append(matrix)
            for shape, matrices in shapes.items():
                nudges = []
                for matrix in matrices:
                    state = self.state[matrix]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(matrix)
                    momentum = state["momentum_buffer"]
                    momentum.lerp_(matrix.grad, 1 - group["momentum"])
                    nudges.append(matrix.grad.lerp(momentum, group["momentum"]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                updates = orthogonal(torch.stack(nudges)).unbind()
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """(n, rows, columns) to about the nearest matrices of equal singular values (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
