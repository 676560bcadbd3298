"""The Hugging Face cache and, where that is asked for, its hub. Its package is imported where a name is looked up."""

from __future__ import annotations

import re
from pathlib import Path

from harness.kit.errors import HarnessError

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# Beside the weights: facts of the architecture, the tokenizer, what pixels are normalised by. No code.
BESIDE = ("*.json", "*.txt", "*.model")
ENDPOINT: str | None = None  # the hub's own; a local one in tests
CACHE: Path | None = None
KINDS = (("*.safetensors",), ("*.bin",), ("*.pt", "*.pth"))


def in_hub_cache(name: str, file: str) -> Path | None:
    """A file of a repository in the cache; None for one that is not there, and for what is no repository's name."""
    if not HUB_NAME.fullmatch(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, file)
    return Path(cached) if isinstance(cached, str) else None


def fetch(source: Path | str | None) -> None:
    """Bring a repository's weights, and the facts and words beside them, into the Hugging Face cache.

    Nothing for a file or folder that is here. HarnessError, one line, where it cannot be fetched.
    """
    name = "" if source is None else Path(source).as_posix()
    if source is None or Path(source).exists() or not HUB_NAME.fullmatch(name):
        return
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        held = HfApi(endpoint=ENDPOINT).list_repo_files(name)
        kind = next((one for one in KINDS if any(Path(file).match(end) for file in held for end in one)), ())
        snapshot_download(name, allow_patterns=[*BESIDE, *kind], endpoint=ENDPOINT, cache_dir=CACHE)
    except OfflineModeIsEnabled as error:
        raise HarnessError(f"weights {name}: HF_HUB_OFFLINE is set; unset it, or name a local folder") from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HarnessError(
            f"weights {name}: cannot be fetched from the hub ({reason}); see whether it exists"
        ) from error
