"""Objectives by name: defaults, weighted sums, settings, refusals, and one of another package with all its freedoms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cost.host import NO_WORDS
from harness.hosts.build import build_host
from harness.hosts.host import HostModel
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.objectives import choose, choose_downstream
from harness.objectives.parts.objective import Moment, Objective, Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.reduction.budget import make_reducer
from harness.train.pretrain import pretrain
from harness.train.request import PretrainRequest

OUTSIDE = '''"""Centroids of image features, renewed every epoch, beside a teacher that follows after each step."""
import copy

import torch

from harness.data.pair_batch import PairBatch
from harness.objectives.parts.objective import Objective, ObjectiveConfig, Pairs


class CentroidConfig(ObjectiveConfig):
    """`count`: of centroids."""

    count: int = 3


class Centroids(Objective):
    """Pulls image features towards centroids; two views of an image and two texts of it are read."""

    NEEDS = frozenset({"contrast"})
    Config = CentroidConfig
    LEAVES_UNUSED = True
    VIEWS = 2
    TEXTS = 2

    def __init__(self, *given):
        super().__init__(*given)
        width = self.host.config.projection
        self.head = torch.nn.Linear(width, width)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centroids", torch.zeros(self.config.count, width))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pairs_clustered", torch.zeros((), dtype=torch.int64))

    def read(self, batch: PairBatch, tokenizer) -> Pairs:
        assert batch.pixels.shape[1] == 2
        assert all(len(texts) <= 2 and texts[0] == own for texts, own in zip(batch.texts, batch.captions, strict=True))
        ids, mask = tokenizer(batch.captions)
        return Pairs(batch.pixels, ids, mask, batch.sample_ids)

    def losses(self, pairs, moment):
        texts = self.host.text_batch(pairs.ids, pairs.mask)
        first, second = (
            self.head(self.host.embed_image(self.encode_images(pairs.pixels[:, view], texts))) for view in (0, 1)
        )
        self.centroids.copy_(first.detach()[: self.config.count])
        return {"views": (first - self.teacher(second).detach()).square().mean()}

    def before_epoch(self, epoch, batches, tokenizer):
        self.pairs_clustered.add_(sum(len(batch.keys) for batch in batches.epoch(epoch)))

    def after_step(self):
        self.steps_seen.add_(1)
        with torch.no_grad():
            self.teacher.weight.lerp_(self.head.weight, 0.5)
'''


def made(words: str | None, **settings: Any) -> tuple[Objective[Any], Pairs]:
    """A choice's objective for a small ALBEF in float64, and pairs for it."""
    torch.manual_seed(0)
    host = build_host("albef-tiny", depth=2, text_layers=1, fusion_layers=1)
    recipe = recipe_of("albef-tiny", {"batch_size": 4, "queue_size": 8})
    reducer = make_reducer("dense", open_tower(host.vision).shape)
    objective = choose("albef-tiny", words, settings).make(host, reducer, NO_WORDS, recipe).double().eval()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=generator)
    ids = torch.randint(10, 100, (4, 6), generator=generator)
    return objective, Pairs(pixels, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(4))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two objectives, installed."""
    (tmp_path / "objectives_outside.py").write_text(OUTSIDE)
    (tmp_path / "contrast_outside.py").write_text(
        "from harness.objectives.clip import ClipObjective\n\n\n"
        "class Contrast(ClipObjective):\n"
        "    PARTS = ()\n\n"
        "    def losses(self, pairs, moment):\n"
        "        texts = self.host.text_batch(pairs.ids, pairs.mask)\n"
        "        images = self.host.embed_image(self.encode_images(pairs.pixels, texts))\n"
        "        return {'distance': (images - self.host.embed_text(texts)).square().mean()}\n"
    )
    information = tmp_path / "outside-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[harness.objectives]\ncentroids = objectives_outside:Centroids\nnear = contrast_outside:Contrast\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_host_has_the_objective_of_its_family_and_a_task_that_of_the_host_or_its_own() -> None:
    assert [choose(f"{family}-tiny").name for family in ("albef", "blip", "meter", "clip")] == [
        "albef",
        "blip",
        "meter",
        "clip",
    ]
    assert choose_downstream("blip-tiny", "vqa").modules == ("harness.objectives.downstream.vqa",)
    assert choose_downstream("blip-tiny", "retrieval").modules == ("harness.objectives.downstream.retrieval_blip",)
    with pytest.raises(HarnessError, match="unknown task 'vqaa': did you mean vqa"):
        choose_downstream("blip-tiny", "vqaa")


@pytest.mark.usefixtures("outside")
def test_a_sum_has_the_losses_of_each_times_its_weight() -> None:
    together, pairs = made("albef+0.25*near")
    albef, near = (made(name)[0] for name in ("albef", "near"))
    losses = together(pairs, Moment())
    expected = {f"albef.{name}": loss for name, loss in albef(pairs, Moment()).items()}
    expected |= {f"near.{name}": loss / 4 for name, loss in near(pairs, Moment()).items()}
    assert set(losses) == set(expected)
    for name, loss in losses.items():
        assert torch.allclose(loss, expected[name], rtol=1e-9, atol=1e-12), name
    assert choose("albef-tiny", "albef+0.25*near").name == "albef+0.25*near"
    assert sum(1 for _ in together.parameters()) == sum(1 for _ in albef.parameters())


@pytest.mark.usefixtures("outside")
def test_objectives_of_other_views_are_not_summed() -> None:
    with pytest.raises(HarnessError, match="objectives albef and centroids: need different batches"):
        choose("albef-tiny", "albef+centroids")


@pytest.mark.parametrize("words", ["albef+0*uta", "albef+-1*uta", "albef+nan*uta", "albef+inf*uta", "albef+half*uta"])
def test_a_weight_is_a_number_above_zero(words: str) -> None:
    with pytest.raises(HarnessError, match=r"is no weight; write one above 0, as 0.5\*uta"):
        choose("albef-tiny", words)


def test_several_objectives_of_one_batch_train_together() -> None:
    together, pairs = made("albef+0.5*uta+2*epic", uta={"mask_ratio": 0.25})
    losses = together(pairs, Moment())
    alone = made("uta", uta={"mask_ratio": 0.25})[0]
    assert set(losses) == {
        *(f"albef.{name}" for name in ("contrast", "matching", "masked_words")),
        "uta.alignment",
        "epic.consistency",
        "epic.language",
    }
    alone.load_state_dict(together.get_submodule("members.1").state_dict())
    torch.testing.assert_close(losses["uta.alignment"], alone(pairs, Moment())["alignment"] / 2)
    torch.stack(list(losses.values())).sum().backward()


def test_a_host_that_lacks_what_an_objective_asks_is_refused_in_one_line() -> None:
    host: HostModel = build_host("clip-tiny")
    reducer = make_reducer("dense", open_tower(host.vision).shape)
    for name, lacks in (("albef", "match, fuse, match_logits, mlm_logits, temperature"), ("meter", "match, co_attend")):
        with pytest.raises(HarnessError, match=f"Clip has no {lacks}"):
            choose("clip-tiny", name).make(host, reducer, NO_WORDS, recipe_of("clip-tiny", {}))


@pytest.mark.usefixtures("outside")
def test_an_objective_of_another_package_trains_with_its_views_buffers_and_teacher(tmp_path: Path) -> None:
    from tests.train.conftest import picture

    rows = []
    for number in range(8):
        content, caption = picture(number)
        (tmp_path / f"{number}.jpg").write_bytes(content)
        rows.append({"image": f"{number}.jpg", "caption": [caption, f"{caption} again", f"{caption} once more"]})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    request = PretrainRequest(
        model="clip-tiny",
        data=(str(tmp_path / "pairs.json"),),
        out=tmp_path / "out",
        objective="centroids",
        objective_settings={"centroids": {"count": 2}},
        recipe={"batch_size": 4, "image_size": 32},
        sizes={"depth": 2, "text_layers": 1},
        method="elip",
        schedule="begin=1 keep=.6 lookahead=1",
        steps=3,
        save_every=1,
        vocabulary=100,
        device="cpu",
        quiet=True,
    )
    record = pretrain(request)
    assert record["objective"] == {"name": "centroids", "centroids": {"count": 2}}
    newest = max((request.out / "checkpoints").glob("*.pt"))
    state = torch.load(newest, weights_only=True)["objective"]
    assert state["steps_seen"] == 3
    assert state["pairs_clustered"] == 2 * 8  # two epochs begun
    assert state["centroids"].shape[0] == 2
    assert state["centroids"].any()
    assert not torch.equal(state["teacher.weight"], state["head.weight"])
