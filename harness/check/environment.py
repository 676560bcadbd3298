"""What the harness runs with: versions, device, Java for caption metrics, cache folder."""

from __future__ import annotations

import platform
import shutil
from importlib import metadata

import torch

from harness.kit.files import cache_folder

NEEDED = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "fvcore",
    "pycocotools",
    "pycocoevalcap",
    "pandas",
    "pyarrow",
    "safetensors",
)


def lines() -> list[tuple[str, bool]]:
    """(line, good) for each thing looked at; a missing package is not good."""
    found = [(f"python         {platform.python_version()}", True)]
    for name in NEEDED:
        try:
            found.append((f"{name:<15}{metadata.version(name)}", True))
        except metadata.PackageNotFoundError:
            found.append((f"{name:<15}missing: pip install {name}", False))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (CPU only)"
    found.append((f"CUDA device    {device}", True))
    found.append((f"CPU threads    {torch.get_num_threads()}", True))
    found.append((f"Java           {shutil.which('java') or 'none (only caption metrics need it)'}", True))
    found.append((f"cache          {cache_folder()}", True))
    return found
