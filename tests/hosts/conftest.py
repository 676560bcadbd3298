"""What tests of hosts share: images and a tokenizer of the built-in world's size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.hosts.parts.presets import TINY
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, TextTokenizer
from harness.hosts.weights.find import assets_of


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """ALBEF's, which reads the built-in world."""
    return TextTokenizer(assets_of("albef-tiny") / VOCABULARY_FILE, TINY["text_length"])


@pytest.fixture(scope="module")
def images() -> Tensor:
    """(3, 3, 64, 64), of random numbers in float64."""
    return torch.randn(3, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
