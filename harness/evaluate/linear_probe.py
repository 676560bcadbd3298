"""A linear probe: multinomial logistic regression on frozen features.

Shapes: N images, D feature width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_ITERATIONS = 1000
GRADIENT_TOLERANCE = 1e-7


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: the training features' mean and scale (D,), weight (C, D) and bias (C,), all float64.

    `iterations` it took, and `gradient`, the largest entry of the objective's gradient where it stopped.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    iterations: int
    gradient: float

    def scores(self, features_ND: Tensor) -> Tensor:
        """Logits (N, C), float64."""
        return F.linear((features_ND.double() - self.mean) / self.scale, self.weight, self.bias)


def fit_probe(features_ND: Tensor, labels_N: Tensor, classes: int, l2: float) -> LinearProbe:
    """Minimise the mean cross-entropy plus l2 / 2 times the squared weights; the bias is not penalised.

    Features are standardised per channel, so that one l2 suits all hosts and methods. Full-batch L-BFGS from zero, in
    float64: for l2 above 0 the problem is strictly convex in the weights, so the result depends on no seed.
    """
    wide_ND = features_ND.double()
    mean_D, scale_D = wide_ND.mean(0), wide_ND.std(0, correction=0)
    scale_D = torch.where(scale_D > 0, scale_D, 1.0)
    inputs_ND = (wide_ND - mean_D) / scale_D
    weight_CD = inputs_ND.new_zeros(classes, inputs_ND.shape[1]).requires_grad_()
    bias_C = inputs_ND.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight_CD, bias_C],
        max_iter=MOST_ITERATIONS,
        max_eval=2 * MOST_ITERATIONS,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(inputs_ND, weight_CD, bias_C), labels_N) + l2 / 2 * weight_CD.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
        objective()
    gradient = max(float(one.grad.abs().max()) for one in (weight_CD, bias_C) if one.grad is not None)
    iterations = int(optimizer.state[weight_CD]["n_iter"])
    return LinearProbe(mean_D, scale_D, weight_CD.detach(), bias_C.detach(), iterations, gradient)
