"""Comparison with reference vectors of the authors' programs."""
