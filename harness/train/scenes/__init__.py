"""The built-in world's own curriculum: how the shipped weights are trained in an hour on two cores."""
