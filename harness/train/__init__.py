"""Training: one loop for every host, method and objective, its checkpoints, and the stages of a protocol."""
