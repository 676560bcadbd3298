"""Where a host's weights lie: with the program, in a folder, or in the Hugging Face cache."""

from __future__ import annotations

from pathlib import Path

from harness.hosts.build import host_config, split_name
from harness.hosts.weights.hub import HUB_NAME, in_hub_cache
from harness.hosts.weights.released_files import INDEX_SUFFIX, TORCH_SUFFIXES
from harness.kit.errors import HarnessError
from harness.kit.files import ASSETS

WEIGHTS_FILE = "model.safetensors"
OF_A_FOLDER = "transformers/"
# In folders and in the Hugging Face cache: ours, transformers', timm's and open_clip's.
WEIGHTS_FILES = (
    *(WEIGHTS_FILE, "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    *(f"{WEIGHTS_FILE}{INDEX_SUFFIX}", f"pytorch_model.bin{INDEX_SUFFIX}"),
)


def assets_of(name: str) -> Path:
    """The folder that ships with a host model (vocabulary, weights, recipe)."""
    return ASSETS / name


def weights_file(name: str) -> Path:
    """The weights that ship with a host model, or lie in the folder it is named after; HarnessError for neither."""
    if "/" in name:
        host_config(name)  # says what is wrong with the name of a ViT
    if name.startswith(OF_A_FOLDER):
        return find_weights(name.removeprefix(OF_A_FOLDER))
    path = assets_of(name) / WEIGHTS_FILE
    if not path.is_file():
        split_name(name)
        shipped = ", ".join(sorted(folder.parent.name for folder in ASSETS.glob(f"*/{WEIGHTS_FILE}")))
        raise HarnessError(f"model {name}: no weights ship with it (they do with {shipped}); name some with --weights")
    return path


def find_weights(source: Path | str) -> Path:
    """The file of weights that a file, a folder or a name in the Hugging Face cache stands for; never the network.

    Raises HarnessError for a folder without weights and for what is neither here nor in the cache.
    """
    path, name = Path(source), Path(source).as_posix()
    if path.is_dir():
        found = [path / file for file in WEIGHTS_FILES if (path / file).is_file()]
        if not found:
            raise HarnessError(f"weights {path}: no {' or '.join(WEIGHTS_FILES[:2])} in this folder; name a file")
        return found[0]
    named = path.suffix in (*TORCH_SUFFIXES, ".safetensors") or name.endswith(INDEX_SUFFIX)
    if path.exists() or named or not HUB_NAME.fullmatch(name):
        return path
    for file in WEIGHTS_FILES:
        cached = in_hub_cache(name, file)
        if cached is not None:
            return cached
    raise HarnessError(
        f"weights {name}: no such file or folder, and not in the Hugging Face cache; run `hf download {name}` where "
        "there is a network (commands that measure or train do it with --download), or name a local file or folder"
    )
