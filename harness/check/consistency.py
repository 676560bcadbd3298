"""EPIC's consistency where it is sharpest: does a word still fit its image once the patches that show it are pruned?

FOLDER holds what `pretrain --objective epic` left: weights, recipe and the last checkpoint, in which the decision lies
that no weights keep. Words are those that name an object of a scene, its colour and its shape; an object is pruned
where no patch of its cell has a token of its own in the tower's last block. A true word that is decided not to fit is a
false alarm; against a host that calls all words fitting, the first colour of each caption is made false as well.
Shapes: B scenes, L words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data.scene_layout import COLOUR_NAMES, SHAPES, Scene, make_scenes, render
from harness.data.scene_text import caption_text, captions
from harness.data.transforms import normalise
from harness.data.world import WORLD_SEED, world_of
from harness.evaluate.encoder import survival
from harness.hosts.albef.model import Albef
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import Host, load_host
from harness.hosts.weights.find import WEIGHTS_FILE
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.reading import read_json
from harness.kit.registry import methods
from harness.metrics.stats import summarise
from harness.reduction import TokenReducer, Trace, encode
from harness.reduction.budget import make_reducer
from harness.train.checkpoint import CHECKPOINTS, load_newest
from harness.train.session import DONE_FILE

AT_ONCE = 50
HEAD = "decision."
# (scene, whether the object is pruned, whether the word is true, whether it was decided to fit)
Decided = list[tuple[int, bool, bool, bool]]


def lines(folder: Path, names: str, ratio: float, limit: int) -> Iterator[tuple[str, bool]]:
    """(line, True) for a heading, and for each method by its name.

    HarnessError for a folder that is not of this objective, data other than a built-in world, and methods that learn.
    """
    facts, decision = read_run(folder)
    host = load_host(facts["model"], folder / WEIGHTS_FILE, "cpu", "float32")
    data = facts["data"][0]
    world = world_of(data)
    if world is None or len(facts["data"]) > 1:
        raise HarnessError(f"{folder}: was trained on {data}; which word speaks of which patch is known of scenes")
    known = {_id(host, word) for word in (*COLOUR_NAMES[: world.colours], *SHAPES[: world.shapes])}
    if len(known) < world.colours + world.shapes or host.tokenizer.specials.unknown in known:
        raise HarnessError(f"{folder}: its tokenizer has no word of its own for each colour and shape of {data}")
    scenes = list(make_scenes(WORLD_SEED, "val", limit, world))
    yield (
        f"{facts['model']}, {data}, {limit} scenes with a caption each; words that name an object, ratio {ratio:g}",
        True,
    )
    yield (
        f"{'':<12}{'true words that fit, shown':<38}{'true words that fit, pruned':<38}false colours that do not fit",
        True,
    )
    for method in ["dense", *methods.expand(names, without=("dense",))]:
        reducer = make_reducer(method, host.model.shape, ratio=None if method == "dense" else ratio)
        if reducer.learns:
            raise HarnessError(f"method {method} learns: without weights it prunes at random; leave it out")
        found = decide(host, decision, reducer.eval(), scenes)
        true = [one for one in found if one[2]]
        shown, pruned = [one for one in true if not one[1]], [one for one in true if one[1]]
        false = [(scene, gone, truth, not fits) for scene, gone, truth, fits in found if not truth]
        yield f"{method:<12}{_share(shown):<38}{_share(pruned):<38}{_share(false)}", True


def read_run(folder: Path) -> tuple[dict[str, Any], nn.Linear]:
    """The facts of a run, and the decision of its last checkpoint; HarnessError where it is not of objective epic."""
    path = folder / DONE_FILE
    facts = (read_json(path) if path.is_file() else {}).get("facts", {})
    found = load_newest(folder / CHECKPOINTS, {}, warn_on_stderr) if facts else None
    state: dict[str, Tensor] = {} if found is None else found[1]["objective"]
    names = [name for name in state if name.endswith(f"{HEAD}weight")]
    if not names:
        raise HarnessError(f"{folder}: holds no finished run of objective epic; pretrain --objective epic leaves one")
    prefix = names[0].removesuffix("weight")
    decision = nn.Linear(state[names[0]].shape[1], 1)
    decision.load_state_dict({name: state[prefix + name].float() for name in ("weight", "bias")})
    return facts, decision


@torch.no_grad()
def decide(host: Host, decision: nn.Linear, reducer: TokenReducer[Any], scenes: list[Scene]) -> Decided:
    """What is decided of words that name objects in scenes' first captions, and of their first colours made false."""
    model, found = host.model, Decided()
    assert isinstance(model, Albef)  # whose words alone the objective reads
    tower, config = open_tower(model.vision), model.config
    remaining = iter(enumerate(scenes))
    while part := list(islice(remaining, AT_ONCE)):
        pixels = normalise(np.stack([render(scene) for _, scene in part]), config.mean, config.std)
        ids, mask = host.tokenizer([caption_text(captions(scene, 1)[0]) for _, scene in part])
        trace = Trace(origins_wanted=True)
        tokens = encode(tower, reducer, pixels, model.guide(model.text_batch(ids, mask)), trace)
        own = survival(trace.origins[-1])[0]
        false, places, others = ids.clone(), [mentions(host, row) for row in ids], list[int | None]()
        for row, (_, scene) in enumerate(part):
            place, colour, shape = places[row][0]
            others.append(absent_colour(scene, colour, shape))
            if (other := others[-1]) is not None:
                false[row, place] = _id(host, COLOUR_NAMES[other])
        fits_BL, fits_false_BL = (
            decision(model.fuse(model.encode_text(words, mask), tokens).at_inputs()).squeeze(-1) > 0
            for words in (ids, false)
        )
        for row, (number, scene) in enumerate(part):
            for order, (place, colour, shape) in enumerate(places[row]):
                patches = list(scene.by_type[shape * len(COLOUR_NAMES) + colour].patches)
                pruned = not bool(own[row, patches].any())
                found += [(number, pruned, True, bool(fits_BL[row, at])) for at in (place, place + 1)]
                if order == 0 and others[row] is not None:
                    found.append((number, pruned, False, bool(fits_false_BL[row, place])))
    return found


def mentions(host: Host, ids_L: Tensor) -> list[tuple[int, int, int]]:
    """(place of the colour, colour, shape) of each object that a text names: a colour, then a shape."""
    colours, shapes = (
        {_id(host, word): number for number, word in enumerate(words)} for words in (COLOUR_NAMES, SHAPES)
    )
    ids = ids_L.tolist()
    return [
        (place, colours[here], shapes[after])
        for place, (here, after) in enumerate(pairwise(ids))
        if here in colours and after in shapes
    ]


def absent_colour(scene: Scene, colour: int, shape: int) -> int | None:
    """The next colour in which a scene has no object of a shape; None where it has one in each."""
    count = scene.world.colours
    others = ((colour + step) % count for step in range(1, count))
    return next((one for one in others if shape * len(COLOUR_NAMES) + one not in scene.by_type), None)


def _id(host: Host, word: str) -> int:
    return int(host.tokenizer([word])[0][0, 1])


def _share(decided: Sequence[tuple[int, bool, bool, bool]]) -> str:
    """How many of the words were decided so, with an interval over scenes, and how many words there are."""
    if not decided:
        return "-"
    entry = summarise([float(fits) for *_, fits in decided], [scene for scene, *_ in decided])
    low, high = entry["ci95"]
    return f"{100 * entry['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}] of {len(decided):,}"
