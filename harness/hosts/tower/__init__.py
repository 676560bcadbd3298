"""A plain ViT as a host: its features alone, no text side."""
