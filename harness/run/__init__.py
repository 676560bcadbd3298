"""Cells: planned, measured, stored."""
