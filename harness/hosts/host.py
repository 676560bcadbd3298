"""What every host model offers: a vision tower, a text side, and the questions one can ask of the two.

Shapes: B pairs, N image tokens with the class token, L text tokens, D width, P size of the shared space, A answers.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat
from torch import Tensor, nn

from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.recipes import Recipes
from harness.hosts.parts.shared_space import Projection
from harness.hosts.parts.tokenizer import Tokenizer
from harness.hosts.weights.facts import CONFIG_FILE, Facts
from harness.hosts.weights.released import Lacking, LoadReport, Part, Translation, fill_part
from harness.hosts.weights.released_files import read_released
from harness.kit.errors import HarnessError
from harness.reduction import Guide, Stack, StackShape, Tokens
from harness.reduction.guide import Offer


class HostConfig(BaseModel):
    """Sizes that every host has; `image_size` and `patch_size` in pixels, `text_length` in tokens at most.

    `tokenizer`: a name in the Hugging Face cache, or None where a vocabulary comes with the weights. `task`: what the
    weights are fine-tuned for, which decides the heads that a host has and uses; None before fine-tuning.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    vision_eps: float = 1e-6
    vocab_size: int
    text_length: int
    task: str | None = None
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    tokenizer: str | None = None


@dataclass(frozen=True)
class TextBatch:
    """Texts as a host reads them: ids (B, L), mask (B, L) true where a token stands, and what left the text encoder."""

    ids: Tensor
    mask: Tensor
    tokens: Tokens

    @property
    def states(self) -> Tensor:
        """(B, L', D), as many as the text encoder left."""
        return self.tokens.states

    def rows(self, index: Tensor) -> TextBatch:
        """Some texts, cut to the longest of them; padding stands at the end."""
        mask, tokens = self.mask[index], self.tokens.rows(index)
        length = int(mask.sum(1).max())
        return TextBatch(self.ids[index, :length], mask[:, :length], tokens.cut(length))

    def select(self, index: Tensor) -> TextBatch:
        """Some texts at the batch's own length, without looking at the data."""
        return TextBatch(self.ids[index], self.mask[index], self.tokens.rows(index))


class HostModel(nn.Module, ABC):
    """Base class. `heads` says which of the questions below a model has tensors for, `abilities` which it can be asked.

    `EXTRA_WORDS`: words that a vocabulary must hold beside BERT's. `PAPER_SETTINGS`: by method, the settings of its
    paper for this host, where they differ from the method's own defaults. `RECIPES`: by preset, the numbers of its
    pre-training ("pretrain") and of its fine-tuning (by task). `OPTIONAL`: which of its tensors a released
    file may lack (patterns of our names, each lacking as a whole), and why. `TEXT_SIDE`: the pattern of the names of
    what reads a text alone, cross-attention left out. `NAMES_WORDS`: whether that has BERT's head for hidden words (see
    `words_alone`). `TEXT_FROM`, `VISION_FROM`: other families of hosts whose text side or tower can start this one's
    (see `start_text`, `start_vision`). `FACT_FILES`: the configs beside a released file that `stated_facts` reads.
    """

    KIND: ClassVar[str] = "host"
    Config: ClassVar[type[HostConfig]]
    EXTRA_WORDS: ClassVar[tuple[str, ...]] = ()
    PAPER_SETTINGS: ClassVar[dict[str, dict[str, Any]]] = {}
    RECIPES: ClassVar[Recipes] = {}
    OPTIONAL: ClassVar[Lacking] = ()
    TEXT_SIDE: ClassVar[str] = ""
    NAMES_WORDS: ClassVar[bool] = False
    TEXT_FROM: ClassVar[frozenset[str]] = frozenset()
    VISION_FROM: ClassVar[frozenset[str]] = frozenset()
    FACT_FILES: ClassVar[tuple[str, ...]] = (CONFIG_FILE,)
    vision: nn.Module
    config: Any

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """The fields of the config by the host's whole name: of `PRESETS` beside the class, for most."""
        presets: dict[str, dict[str, Any]] = vars(sys.modules[cls.__module__])["PRESETS"]
        return presets[name.rpartition("-")[2]]

    @classmethod
    def vocabulary_sizes(cls, vocabulary: dict[str, int]) -> dict[str, int]:
        """The fields of the config that a vocabulary decides."""
        return {"vocab_size": len(vocabulary)}

    @property
    def shape(self) -> StackShape:
        """That of the vision tower, with the shapes of the other stacks that a method may work in beside it."""
        from harness.hosts.parts.towers import open_tower

        beside = {stack.shape.kind: stack.shape for stack in self.text_stacks()}
        return replace(open_tower(self.vision).shape, beside=beside, offer=self.offer())

    def offer(self) -> Offer:
        """What `guide` holds beside the text's class token."""
        return Offer(self.config.text_length, self.shared_size())

    @torch.no_grad()
    def shared_size(self) -> int:
        """P of the space both sides share, 0 where there is none; found with no states at all, which costs nothing."""
        space, states = self.shared_space(), next(self.vision.parameters()).new_empty(0, self.config.width)
        return 0 if space is None else space[0](states).shape[-1]

    @abstractmethod
    def text_stacks(self) -> Sequence[Stack]:
        """The text and fusion stacks, one of a kind, as far as this model has them; nothing is read in them."""

    @property
    def masked_questions(self) -> bool:
        """Whether a question is read with [MASK] where its answer would stand."""
        return False

    # What `filled` started from other tensors of the file, as the paper does.
    derived: frozenset[str] = frozenset()
    # Tensors that the weights in use did not hold: they are as they were drawn.
    absent: frozenset[str] = frozenset()
    # In training, those that no weights and no step so far gave anything: what is saved then lacks them.
    untrained: frozenset[str] = frozenset()

    def trained_now(self) -> None:
        """Note which of the untrained tensors get a gradient: from now on they have learned something."""
        if self.untrained:
            named = self.named_parameters(remove_duplicate=False)
            self.untrained -= {name for name, parameter in named if parameter.grad is not None}

    @abstractmethod
    def heads(self) -> dict[str, str]:
        """By question that this model has heads for (contrast, match, answer, entail, compare, caption): the pattern of
        the tensors that answer it.
        """

    @property
    def abilities(self) -> frozenset[str]:
        """Which questions this model can be asked: those all of whose tensors came with its weights."""
        return frozenset(ability for ability in self.heads() if not self.lacks(ability))

    def lacks(self, ability: str) -> list[str]:
        """The tensors of a question that did not come with the weights, by name."""
        pattern = re.compile(self.heads()[ability])
        return sorted(name for name in self.absent if pattern.fullmatch(name))

    @abstractmethod
    def released(self, name: str) -> Translation:
        """What a tensor of the released program is here; None for a name of another architecture."""

    @classmethod
    def sizes_for(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """The fields of the config that a released program's tensors decide, by their names there."""
        return {}

    @classmethod
    def read_released(cls, name: str, path: Path) -> dict[str, Tensor]:
        """The tensors of a released program's file for the host of this name, by the names that `released` knows."""
        return read_released(path)

    @classmethod
    def stated_facts(cls, name: str, configs: Mapping[str, Mapping[str, Any]]) -> Facts:
        """The fields of the config that files of facts beside a released program's weights state; `configs` by name,
        that of the file itself as `WITHIN`.
        """
        return Facts()

    def lacking(self) -> Lacking:
        """Which of this model's tensors a released file may lack, and why."""
        return self.OPTIONAL

    def filled(self, missing: Sequence[str]) -> None:
        """Derive what starts from other tensors; called after a released file was loaded, with what it lacked."""

    def started_from(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """This model's state where it starts from that of the same host before fine-tuning.

        What fine-tuning adds starts where the paper starts it. Raises HarnessError for tensors that do not fit.
        """
        own = self.state_dict()
        for name, tensor in tensors.items():
            if name not in own or own[name].shape != tensor.shape:
                expected = tuple(own[name].shape) if name in own else "no such tensor"
                raise HarnessError(f"weights to start from: {name} is {tuple(tensor.shape)}, expected {expected}")
        return own | tensors

    def on_differing_double(self) -> str:
        """What to add to the refusal of a file in which the double of a tied tensor differs; begins with "; "."""
        return ""

    def part(self, name: str) -> Part:
        """The part "vision" or "text", as files of other models initialise it; HarnessError for one that none can."""
        raise HarnessError(f"{type(self).__name__} cannot take its part {name!r} from another model's weights")

    def start_vision(self, tensors: dict[str, Tensor], source: str) -> LoadReport:
        """Fill the tower from that of a host of this family or of one in VISION_FROM, by its own names.

        HarnessError for tensors that do not fit.
        """
        return fill_part(self, tensors, source, Part(self._own_name, r"vision\..+"))

    def start_text(self, family: str, tensors: dict[str, Tensor], source: str) -> LoadReport:
        """Fill the text side from the tensors of a host of this family, or of one in TEXT_FROM, its tower's left out.

        HarnessError for tensors that do not fit.
        """
        side = {name: tensor for name, tensor in tensors.items() if re.fullmatch(self.TEXT_SIDE, name)}
        return fill_part(self, side, source, Part(self._own_name, self.TEXT_SIDE))

    def _own_name(self, name: str) -> Translation:
        return name if name in self.state_dict() else None

    @abstractmethod
    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tokens:
        """Texts through the text side alone; the first token stands for the whole text."""

    @abstractmethod
    def encode_image(self, images_BCHW: Tensor) -> Tokens:
        """Image tokens with every patch, class token first, by the model's own forward.

        Under a reduction method they come from `harness.reduction.encode` on this model's `vision` instead.
        """

    def text_batch(self, ids_BL: Tensor, mask_BL: Tensor) -> TextBatch:
        """Texts with their states."""
        return TextBatch(ids_BL, mask_BL, self.encode_text(ids_BL, mask_BL))

    def normed(self, image: Tokens) -> Tensor:
        """Image states (B, N, D) after the tower's last norm, which some hosts' states are already."""
        return image.states

    def words_alone(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Word logits (B, L, V) of texts that are read without an image, as BERT's head gives them.

        HarnessError for a host whose text side has no such head.
        """
        raise self.cannot("name hidden words without an image")

    def guide(self, texts: TextBatch) -> Guide:
        """What the text side offers to a text-guided method: states without gradient, notes with theirs."""
        states, shared = texts.states.detach(), self.shared_space()
        return Guide(states[:, 0], states, texts.tokens.mask, texts.tokens.notes, shared)

    def shared_space(self) -> tuple[Projection, Projection] | None:
        """A guide's `shared`; None of a host without one, or whose weights hold none."""
        return None

    def features(self, image: Tokens) -> Tensor:
        """What the tower makes of an image, (B, D'), before any head."""
        from harness.hosts.parts.towers import open_tower

        return open_tower(self.vision).pooled(image)

    def text_state(self, texts: TextBatch) -> Tensor:
        """The state that stands for a whole text, (B, D)."""
        return texts.states[:, 0]

    def embed_image(self, image: Tokens) -> Tensor:
        """The image's place in the space it shares with texts, (B, P), unit length."""
        raise self.cannot("contrast")

    def embed_text(self, texts: TextBatch) -> Tensor:
        """The text's place in the space it shares with images, (B, P), unit length."""
        raise self.cannot("contrast")

    def match(self, texts: TextBatch, image: Tokens) -> Tensor:
        """Logits (B, 2): column 1 says that text and image belong together."""
        raise self.cannot("match")

    def answers(self, tokenizer: Tokenizer, answers: Sequence[str]) -> Any:
        """A closed list of answers as `answer_scores` takes it."""
        raise self.cannot("answer")

    def sayable(self, tokenizer: Tokenizer, answers: Sequence[str]) -> tuple[str, ...]:
        """Of some answers those that the host can pick; a decoder spells any."""
        return tuple(answers)

    def answer_scores(self, texts: TextBatch, image: Tokens, answers: Any) -> Tensor:
        """Score (B, A) of each answer to the questions `texts`."""
        raise self.cannot("answer")

    def say_answers(
        self, texts: TextBatch, image: Tokens, *, beams: int = 3, max_length: int = 10, min_length: int = 1
    ) -> Tensor:
        """Answers to the questions `texts` in the host's own words, as token ids (B, L)."""
        raise HarnessError(f"{type(self).__name__} picks answers from a list and generates none; leave them ranked")

    def answer_outputs(self, questions: TextBatch, image: Tokens, targets: AnswerTargets) -> Tensor:
        """Logits that `answer_losses` compares with the targets: of the answers' words (R, L, V), or classes (B, A)."""
        raise self.cannot("answer")

    def answer_losses(
        self,
        outputs: Tensor,
        targets: AnswerTargets,
        soft: Tensor | None = None,
        alpha: float = 0.0,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Loss (B,) of each question; `soft`: a momentum twin's outputs, which count `alpha` as targets.

        `smoothing`: of the targets of words; HarnessError where answers are classes.
        """
        raise self.cannot("answer")

    def rank(self, texts: TextBatch, image: Tokens) -> Tensor:
        """Score (B,) by which retrieval orders pairs: the log-odds that they belong together."""
        logits_B2 = self.match(texts, image)
        return logits_B2[:, 1] - logits_B2[:, 0]

    def entail(self, texts: TextBatch, image: Tokens) -> Tensor:
        """Logits (B, 3) of hypotheses about images, in the order of ENTAILMENT_LABELS."""
        raise self.cannot("entail")

    def compare(self, texts: TextBatch, first: Tokens, second: Tokens) -> Tensor:
        """Logits (B, 2) of statements about two images: column 1 says that the statement is true."""
        raise self.cannot("compare")

    def cannot(self, ability: str) -> HarnessError:
        """The error of a host that is asked what it cannot do."""
        offered = ", ".join(sorted(self.abilities)) or "give features alone"
        missing = [name for asked in ability.split(" or ") if asked in self.heads() for name in self.lacks(asked)]
        if not missing:
            return HarnessError(f"{type(self).__name__} cannot {ability}: it can {offered}")
        rest = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        lacking = f"its weights hold no {missing[0]}{rest}"
        return HarnessError(f"{type(self).__name__} cannot {ability}: {lacking}; they are for: {offered}")
