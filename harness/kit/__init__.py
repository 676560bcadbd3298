"""What knows no model: errors, files, settings, digests, progress, draws, processes, names."""
