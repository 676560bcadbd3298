"""What several objectives of fine-tuning share."""
