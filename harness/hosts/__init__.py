"""Host models and vision towers."""
