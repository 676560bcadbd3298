"""Files of weights: this program's own, released programs', sets of them."""
