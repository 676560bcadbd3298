"""Facts about the supervised targets of patches and clauses, small enough to check by hand."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from harness.data.scene_layout import COLOUR_NAMES, SHAPES, TYPES
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, TextTokenizer
from harness.hosts.weights.find import assets_of
from harness.objectives.parts.scenes.corpus import build_corpus
from harness.objectives.parts.scenes.facts import cell_of_patch, neighbour_types
from harness.objectives.parts.scenes.losses import claim_loss
from harness.objectives.parts.scenes.patch_parts import PartHeads, beside_loss, parts_loss, parts_of, places_loss


def test_cells_are_two_by_two_patches() -> None:
    cells = cell_of_patch().view(8, 8)
    assert cells[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert cells[:, 0].tolist() == [0, 0, 4, 4, 8, 8, 12, 12]


def test_an_object_in_the_corner_is_left_of_one_cell_and_above_another() -> None:
    types = torch.full((1, 64), TYPES)
    types[0, [0, 1, 8, 9]] = 5
    beside = neighbour_types(types)[0].view(8, 8, 4)
    seen = (beside == 5).nonzero().tolist()
    assert seen == [[0, 2, 0], [0, 3, 0], [1, 2, 0], [1, 3, 0], [2, 0, 2], [2, 1, 2], [3, 0, 2], [3, 1, 2]]


def test_parts_of_a_type_are_its_shape_and_its_colour() -> None:
    types = torch.tensor([0, 5, 6, 47, TYPES])
    shapes, colours = parts_of(types)
    assert shapes.tolist() == [0, 0, 1, 7, len(SHAPES)]
    assert colours.tolist() == [0, 5, 0, 5, len(COLOUR_NAMES)]


def test_a_head_that_knows_what_a_patch_shows_loses_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    types = torch.randint(TYPES + 1, (2, 64), generator=generator)
    cells, beside = cell_of_patch().expand(2, -1), neighbour_types(types)
    around = [parts_of(beside[..., side]) for side in range(4)]
    right = [*parts_of(types), cells // 4, cells % 4, *(part for both in around for part in both)]
    states = torch.cat([F.one_hot(part, 9).float() for part in right], dim=-1)
    heads = PartHeads(states.shape[-1])
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.zero_()
        parts = (heads.shape, heads.colour, heads.row, heads.column)
        for number, head in enumerate(parts):
            head.weight[:, 9 * number : 9 * number + head.out_features] = 50 * torch.eye(head.out_features)
        for kind, head in enumerate((heads.beside_shape, heads.beside_colour)):
            classes = head.out_features // 4
            for side in range(4):
                start = 9 * (4 + 2 * side + kind)
                head.weight[classes * side : classes * (side + 1), start : start + classes] = 50 * torch.eye(classes)
    losses = (parts_loss(heads, states, types), places_loss(heads, states), beside_loss(heads, states, types))
    assert max(losses) < 1e-6
    wrong = (types + 1) % TYPES
    assert parts_loss(heads, states, wrong) > 10
    assert places_loss(heads, states.flip(1)) > 10
    assert beside_loss(heads, states, wrong) > 10


def test_claimed_facts_hold_of_captions_and_some_fail_of_foils() -> None:
    tokenizer = TextTokenizer(assets_of("albef-tiny") / VOCABULARY_FILE, 48)
    corpus = build_corpus(tokenizer.vocabulary, 30, 2, 2, 0)
    facts = corpus.image_facts_SK[:, None].expand(-1, 2, -1)
    known = corpus.claimed_S2C3 >= 0
    true_of = [facts.gather(2, corpus.claimed_S2C3[:, kind].clamp(min=0)) for kind in (0, 1)]
    assert true_of[0][known[:, 0]].all()
    assert 0.3 < true_of[1][known[:, 1]].float().mean() < 0.9
    nouns = corpus.captions_SCL.gather(2, corpus.nouns_S2C3[:, 0])
    assert set(nouns.flatten().tolist()) <= set(tokenizer.answer_ids(SHAPE_WORDS).tolist())


def test_only_known_clauses_count() -> None:
    facts = torch.tensor([[True, False]])
    right, wrong = torch.tensor([[9.0, -9.0, 9.0]]), torch.tensor([[9.0, -9.0, -9.0]])
    claimed = torch.tensor([[0, 1, -1]])
    assert claim_loss(right, claimed, facts) == claim_loss(wrong, claimed, facts)
    assert claim_loss(right, claimed, facts) < 0.001
    assert claim_loss(-right, claimed, facts) > 5


SHAPE_WORDS = ("circle", "square", "triangle", "diamond", "ring", "cross", "moon", "hourglass")
