"""Costs beside MACs, memory and latency: one file each, with one class of `harness.cost.cost.Cost`."""
