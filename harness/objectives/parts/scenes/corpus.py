"""The training half of the built-in world, in memory: pictures as uint8, texts as token ids.

Every word of the world is one token, so that texts are looked up word by word here, which is much faster than
WordPiece and gives the same ids (a test compares them).

Shapes: S scenes, C captions or Q questions per scene (half of the world's own mix, then half of LATE_KINDS), L tokens,
N patches, K facts (see `facts`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data.scene_layout import PLACES, TYPES, Scene, make_scenes, patch_types, render
from harness.data.scene_text import Claim, caption_text, captions, foil, questions
from harness.hosts.parts.tokenizer import CLS, MASK, PAD, SEP
from harness.objectives.parts.scenes.facts import FACTS, image_facts

# A fact that a caption leaves open.
OPEN = -1
# Colours and shapes at a place are learned first by far; then the other kinds get the larger share.
LATE_KINDS = ("colour", "shape", "height", "side", "place", "place", "near", "near")
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Corpus:
    """Training scenes with their captions, questions and statements.

    `caption_facts_SCK` is 1 for facts a caption states and OPEN where it leaves them open. For captions (0) and
    foils (1), `nouns_S2C3` holds the token positions of the clauses' nouns and `claimed_S2C3` the fact that each
    clause states, OPEN for a relation.
    """

    images_SHWC: npt.NDArray[np.uint8]
    patch_types_SN: Tensor
    image_facts_SK: Tensor
    captions_SCL: Tensor
    foils_SCL: Tensor
    caption_facts_SCK: Tensor
    nouns_S2C3: Tensor
    claimed_S2C3: Tensor
    questions_SQL: Tensor
    mask_positions_SQ: Tensor
    answers_SQ: Tensor

    @property
    def size(self) -> int:
        """Number of scenes."""
        return len(self.images_SHWC)


def build_corpus(vocabulary: dict[str, int], scenes: int, captions_each: int, questions_each: int, seed: int) -> Corpus:
    """Draw and describe the first `scenes` training scenes of a seed (about 1 ms each)."""
    rows = [_describe(scene, vocabulary, captions_each, questions_each) for scene in make_scenes(seed, "train", scenes)]
    texts = [_padded([row.texts[kind] for row in rows]) for kind in range(3)]
    return Corpus(
        images_SHWC=np.stack([row.image for row in rows]),
        patch_types_SN=torch.from_numpy(np.stack([row.types for row in rows])),
        image_facts_SK=torch.from_numpy(np.stack([row.facts for row in rows])),
        captions_SCL=texts[0],
        foils_SCL=texts[1],
        caption_facts_SCK=torch.from_numpy(np.stack([row.caption_facts for row in rows])),
        nouns_S2C3=torch.from_numpy(np.stack([row.nouns for row in rows])),
        claimed_S2C3=torch.from_numpy(np.stack([row.claimed for row in rows])),
        questions_SQL=texts[2],
        mask_positions_SQ=(texts[2] == MASK).int().argmax(dim=-1),
        answers_SQ=torch.tensor([row.answers for row in rows], dtype=torch.int64),
    )


def look_up(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Token ids of a text all of whose words stand in the vocabulary."""
    return [vocabulary[word] for word in _WORD.findall(text)]


def caption_facts(claims: Sequence[Claim]) -> npt.NDArray[np.int8]:
    """(K,): 1 for what the caption states, OPEN for places it leaves open, otherwise 0."""
    facts = np.zeros(FACTS, dtype=np.int8)
    for claim in claims:
        kind = claim.type
        facts[kind] = 1
        first = TYPES + kind * len(PLACES)
        if claim.place >= 0:
            facts[first + claim.place] = 1
        else:
            facts[first : first + len(PLACES)] = OPEN
    return facts


def noun_positions(claims: Sequence[Claim], vocabulary: dict[str, int]) -> list[int]:
    """Where the nouns of a caption's clauses stand among its tokens: third in the clause, one token between two."""
    lengths = [len(look_up(claim.text, vocabulary)) + 1 for claim in claims]
    return [1 + sum(lengths[:at]) + 2 for at in range(len(claims))]


def claimed_fact(claim: Claim) -> int:
    """The fact (type at place) that a clause states, or OPEN for a relation."""
    return TYPES + claim.type * len(PLACES) + claim.place if claim.place >= 0 else OPEN


@dataclass(frozen=True)
class _Row:
    image: npt.NDArray[np.uint8]
    types: npt.NDArray[np.int64]
    facts: npt.NDArray[np.bool_]
    texts: tuple[list[list[int]], ...]
    caption_facts: npt.NDArray[np.int8]
    nouns: npt.NDArray[np.int64]
    claimed: npt.NDArray[np.int64]
    answers: list[int]


def _describe(scene: Scene, vocabulary: dict[str, int], captions_each: int, questions_each: int) -> _Row:
    spoken = captions(scene, captions_each)
    foil_bits = scene.bits(4)
    both = (spoken, [foil(scene, claims, foil_bits) for claims in spoken])
    asked = questions(scene, questions_each) + questions(scene, questions_each, LATE_KINDS)
    return _Row(
        image=render(scene),
        types=patch_types(scene),
        facts=image_facts(scene),
        texts=(
            *([[CLS, *look_up(caption_text(claims), vocabulary), SEP] for claims in kind] for kind in both),
            [[CLS, *look_up(question.text, vocabulary), MASK, SEP] for question in asked],
        ),
        caption_facts=np.stack([caption_facts(claims) for claims in spoken]),
        nouns=np.array([[noun_positions(claims, vocabulary) for claims in kind] for kind in both]),
        claimed=np.array([[[claimed_fact(claim) for claim in claims] for claims in kind] for kind in both]),
        answers=[vocabulary[question.answer] for question in asked],
    )


def _padded(rows: list[list[list[int]]]) -> Tensor:
    length = max(len(text) for row in rows for text in row)
    padded = [[text + [PAD] * (length - len(text)) for text in row] for row in rows]
    return torch.from_numpy(np.array(padded, dtype=np.int64))
