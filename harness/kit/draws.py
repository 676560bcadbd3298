"""Random numbers that depend on a key alone, so that neither batch, order, process nor device changes a draw.

A counter-based generator: the key (seed, purpose, time, sample) and a counter are mixed by SplitMix64's finaliser
(Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform(sample_ids_B: Tensor, count: int, *key: int) -> Tensor:
    """(B, count) float64 numbers in [0, 1), one row per sample id (int64) under the integers of `key`."""
    state = sample_ids_B.to(torch.int64)
    for part in key:
        state = _mixed(state + _wrapped(part * GOLDEN_GAMMA + GOLDEN_GAMMA))
    counters = torch.arange(1, count + 1, dtype=torch.int64, device=state.device) * GOLDEN_GAMMA
    bits = _mixed(state[:, None] + counters)
    return _shifted(bits, 11).to(torch.float64) * 2.0**-53


def categorical(weights_BC: Tensor, uniform_B: Tensor) -> Tensor:
    """For each row an index (B,) in proportion to its weights (not negative, not all zero), by inverse distribution."""
    cumulative = weights_BC.double().cumsum(1)
    wanted = uniform_B[:, None] * cumulative[:, -1:]
    picked = torch.searchsorted(cumulative, wanted, right=True)[:, 0]
    # Rounding may put the number at the very end: the last index with a weight is meant.
    last = weights_BC.shape[1] - 1 - weights_BC.flip(1).gt(0).int().argmax(1)
    return torch.minimum(picked, last)


def _mixed(state: Tensor) -> Tensor:
    state = (state ^ _shifted(state, 30)) * MIX_1
    state = (state ^ _shifted(state, 27)) * MIX_2
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _wrapped(value: int) -> int:
    """A Python integer as a signed 64-bit one."""
    return (value + 2**63) % 2**64 - 2**63
