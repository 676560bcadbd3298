"""Records drawn for people: one tidy frame, tables, figures. Torch-free."""
