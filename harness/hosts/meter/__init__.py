"""METER."""
