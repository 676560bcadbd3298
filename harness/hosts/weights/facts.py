"""What says of which architecture weights are: configs beside them (config.json, open_clip_config.json, those of the
released programs) and the one that a checkpoint holds itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError, is_out_of_memory
from harness.kit.reading import read_json, read_yaml

CONFIG_FILE = "config.json"
OPEN_CLIP_FILE = "open_clip_config.json"
# The settings that ALBEF, BLIP and METER train with and save beside their weights, or within a checkpoint.
PROGRAM_FILES = ("config.yaml", "hparams.yaml")
WITHIN = "config within the file"
# The BERT of ALBEF and of BLIP, as their programs and transformers call its file.
BERT_FILES = ("config_bert.json", "bert_config.json", "med_config.json")
BERT_GUESSED = "the text side's {heads} heads, gelu and epsilon {eps:g}: no config beside the file says them"
LIMIT_BYTES = 64 * 2**20
AGAIN = "save or fetch the weights again"
# The most that a size may be: the largest published ViT has 48 blocks of width 3,200.
LARGEST = {
    **dict.fromkeys(("depth", "layers", "text_layers", "fusion_layers", "num_hidden_layers"), 2**9),
    **dict.fromkeys(("width", "text_width", "hidden_size", "projection", "projection_dim", "embed_dim"), 2**14),
    **dict.fromkeys(("image_size", "patch_size", "text_length", "positions", "max_position_embeddings"), 2**14),
    **dict.fromkeys(("context_length", "heads", "num_attention_heads", "text_heads", "mlp_ratio", "head_width"), 2**14),
    **dict.fromkeys(("intermediate_size", "vocab_size", "queue_size"), 2**20),
}


@dataclass(frozen=True)
class Facts:
    """Fields of a host's config as they are stated beside its weights; `guessed`: what nothing there states."""

    sizes: Mapping[str, Any] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()


def config_beside(folder: Path, name: str = CONFIG_FILE) -> dict[str, Any]:
    """A JSON or YAML file of facts in a folder, ours or another program's; empty where there is none.

    HarnessError for one that is no object, or states a size that no model has.
    """
    path = folder / name
    if not path.is_file():
        return {}
    stated = read_yaml(path) if path.suffix == ".yaml" else read_json(path, LIMIT_BYTES)
    if not isinstance(stated, dict):
        kind = "map of settings" if path.suffix == ".yaml" else "JSON object"
        raise HarnessError(f"{path}: expected a {kind}; {AGAIN}")
    check_sizes(stated, str(path))
    return stated


def program_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a released program's settings say, those within a checkpoint before those beside it.

    METER keeps its own under "config".
    """
    found: dict[str, Any] = {}
    for name in (CONFIG_FILE, *reversed(PROGRAM_FILES), WITHIN):
        stated = configs.get(name, {})
        inner = stated.get("config")
        found |= dict(inner) if isinstance(inner, Mapping) else dict(stated)
    return found


def bert_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the config of a BERT among `configs` says; empty where there is none."""
    named = [configs[name] for name in BERT_FILES if configs.get(name)]
    plain = [config for config in [configs.get(CONFIG_FILE, {})] if config.get("model_type", "bert") == "bert"]
    plain = [config for config in plain if "num_attention_heads" in config]
    return dict((named or plain or [{}])[0])


def bert_facts(bert: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a host's text side as a BERT's config states them.

    HarnessError for an activation other than BERT's own and for states that are not as wide as the image's.
    """
    if not bert:
        return {}
    activation = bert.get("hidden_act", "gelu")
    if activation != "gelu":
        raise HarnessError(f"config of the text side: hidden_act {activation}: only BERT's gelu is read here")
    width = bert.get("hidden_size", 768)
    image = bert.get("encoder_width", bert.get("encoder_hidden_size", width))
    if image != width:
        raise HarnessError(
            f"config of the text side: {width} channels, {image} of the image: expected as many on both sides"
        )
    stated = {
        "width": "hidden_size",
        "text_heads": "num_attention_heads",
        "text_mlp": "intermediate_size",
        "text_eps": "layer_norm_eps",
        "positions": "max_position_embeddings",
        "token_types": "type_vocab_size",
        "dropout": "hidden_dropout_prob",
    }
    return {field: bert[name] for field, name in stated.items() if name in bert}


def renamed(stated: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Of some settings those that are numbers, by the names of a host's fields; `names`: theirs by ours."""
    found = {field: stated.get(name) for field, name in names.items()}
    return {field: value for field, value in found.items() if type(value) in (int, float)}


def check_sizes(stated: Any, where: str) -> None:
    """HarnessError for sizes that no model has, wherever in a config, before anything of that size is made."""
    for name, value in stated.items() if isinstance(stated, dict) else ():
        if isinstance(value, dict):
            check_sizes(value, where)
        most = LARGEST.get(name)
        for one in value if isinstance(value, list) else [value]:
            if most is not None and isinstance(one, (int, float)) and not 0 <= one <= most:
                shown = str(one) if len(str(one)) < 20 else f"{str(one)[:20]}…"
                raise HarnessError(f"{where}: {name} {shown}: expected 0 to {most:,}; {AGAIN}")


@contextmanager
def stated_by(what: str, advice: str = AGAIN) -> Iterator[None]:
    """Within, whatever reading odd values or building a model of them raises is a HarnessError: "WHAT: reason; advice".

    Of any class: a config is foreign, and so is much of the code that makes a model of it.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = (str(error).strip() or "no reason given").splitlines()[-1].strip()
        raise HarnessError(f"{what}: {said[:200]} ({type(error).__name__}); {advice}") from error
