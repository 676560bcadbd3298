"""From a name to a ViT: `timm/NAME`, or `transformers/FOLDER` with the config.json that transformers saves.

Shapes without weights where torch's default device is "meta". Nothing is fetched: a folder is local, or a name in the
Hugging Face cache.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from harness.hosts.parts.pixels import CLIP_MEAN, CLIP_STD
from harness.hosts.parts.towers import find_tower, open_tower
from harness.hosts.weights.facts import CONFIG_FILE, config_beside, stated_by
from harness.hosts.weights.hub import in_hub_cache
from harness.kit.errors import HarnessError
from harness.kit.registry import models, unknown

TIMM, TRANSFORMERS = "timm/", "transformers/"
EXPECTED = "expected a timm VisionTransformer, Eva or Beit, such as vit_base_patch16_224"


def build_tower(source: str, image_size: int | None = None) -> nn.Module:
    """The ViT of a source with random weights and without classifier, for square images of `image_size` px.

    HarnessError for names that do not exist, models that cannot be opened, and sizes that they do not take.
    """
    if source.startswith(TRANSFORMERS):
        return _transformers_vit(source.removeprefix(TRANSFORMERS), image_size)
    return _timm_vit(source.removeprefix(TIMM), image_size)


def facts_of(source: str) -> dict[str, Any]:
    """What a host's config says of it: sizes, and the mean and deviation of the pixels that it was trained on."""
    with torch.device("meta"):
        model = build_tower(source)
    tower = open_tower(model)
    shape, (_, height, width) = tower.shape, tower.images
    if height != width:
        raise HarnessError(f"model {source}: for images of {height} x {width} pixels; only square ones are measured")
    mean, std = _colours(source, model)
    return {
        "source": source,
        "image_size": height,
        "patch_size": height // (shape.grid or (1, 1))[0],
        "width": shape.width,
        "depth": shape.depth,
        "heads": shape.heads,
        "vocab_size": 0,
        "text_length": 0,
        "mean": mean,
        "std": std,
    }


def _timm_vit(name: str, image_size: int | None) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(["*vit*", "*deit*", "*eva*", "*beit*"]), 6, 0.6)
        raise unknown("model", name, [*models.names(), *near, "any timm VisionTransformer, Eva or Beit"])
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except (RuntimeError, NotImplementedError) as error:
        raise HarnessError(f"model {name} cannot be built without data ({error}): {EXPECTED}") from error
    if not isinstance(model, (VisionTransformer, Eva, Beit)):
        raise HarnessError(f"model {name} is a {type(model).__name__}: {EXPECTED}")
    own: int = model.patch_embed.img_size[0]
    check_image_size(own if image_size is None else image_size, model.patch_embed.feat_ratio(as_scalar=False), own)
    sized = {} if image_size in (None, own) else {"img_size": image_size}
    built: nn.Module = timm.create_model(name, **sized)
    return built


def check_image_size(size: int, patch: tuple[int, int], own: int | None = None) -> None:
    """HarnessError unless patches of (height, width) pixels tile a square image of `size` pixels, or it is `own`, the
    size that the model was published for.
    """
    if size != own and (size < 1 or size % patch[0] or size % patch[1]):
        near = max(round(size / patch[0]), 1) * patch[0]
        raise HarnessError(f"image size {size}: expected a multiple of the patch size {patch[0]}, such as {near}")


def _transformers_vit(folder: str, image_size: int | None) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    path = config_file(folder)
    config_beside(path.parent)  # refuses what is no config
    with stated_by(f"model {path.parent}: its config.json builds no model"):
        config = AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
        whole = AutoModel.from_config(config, trust_remote_code=False)
        model = find_tower(whole)[1]
        own = open_tower(model).images[1]
    if image_size not in (None, own):
        raise HarnessError(f"image size {image_size}: {path.parent} is for {own} pixels; leave it out")
    return model


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of the ViT that transformers has saved in a folder, by the names of the present release's modules.

    transformers reads them itself: its releases differ in the names on disk. HarnessError for what it cannot read, and
    for a folder that lacks tensors of the ViT, its pooler excepted.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with stated_by(f"weights {folder}: transformers reads no model there"):
            whole, about = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, output_loading_info=True, dtype=torch.float32
            )
    finally:
        if shown:
            logging.enable_progress_bar()
    place, vit = find_tower(whole)
    before = f"{place}." if place else ""
    absent = [name.removeprefix(before) for name in about["missing_keys"] if name.startswith(before)]
    lost = [name for name in absent if not name.startswith("pooler.")]
    if lost:
        raise HarnessError(f"weights {folder}: lacks {lost[0]} and {len(lost) - 1} more of the ViT; fetch them again")
    kinds = {_of_any_layer(f"{before}{name}") for name in vit.state_dict()}
    cut = sorted(name for name in about["unexpected_keys"] if _of_any_layer(name) in kinds)
    if cut:
        raise HarnessError(
            f"weights {folder}: holds {cut[0]} and {len(cut) - 1} more, which the model of its config.json has not: "
            "they are of another size; save or fetch both again"
        )
    return {name: value.contiguous() for name, value in vit.state_dict().items() if name not in absent}


def _of_any_layer(name: str) -> str:
    """A tensor's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".N.", name)


def config_file(folder: str) -> Path:
    """The config.json of a folder, or of a name in the Hugging Face cache; HarnessError where there is none."""
    path = Path(folder) / CONFIG_FILE
    if path.is_file():
        return path
    cached = None if Path(folder).exists() else in_hub_cache(folder, CONFIG_FILE)
    if cached is None:
        raise HarnessError(f"model {folder}: no config.json in it; name a folder that transformers has saved")
    return cached


def _colours(source: str, model: nn.Module) -> tuple[Any, Any]:
    """Mean and deviation of the pixels: timm's own, or those of preprocessor_config.json beside config.json."""
    if not source.startswith(TRANSFORMERS):
        config = resolve_model_data_config(model)
        return config["mean"], config["std"]
    stated = config_beside(config_file(source.removeprefix(TRANSFORMERS)).parent, "preprocessor_config.json")
    clip = "CLIP" in type(model).__name__ or "Blip" in type(model).__name__
    usual = (CLIP_MEAN, CLIP_STD) if clip else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if "Siglip" in type(model).__name__ or type(model).__name__ in ("ViTModel", "DeiTModel"):
        usual = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return stated.get("image_mean", usual[0]), stated.get("image_std", usual[1])
