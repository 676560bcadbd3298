"""Metrics as pure functions: captions against references, answers against annotators' answers, ranks of right items."""
