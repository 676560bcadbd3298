"""The recipe of a pre-training run: every number that the result depends on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Recipe(BaseModel):
    """Three stages: supervised warm-ups of the vision tower and the text encoder, then all objectives together.

    What a patch shows comes before what surrounds it: patches that tell of their neighbours from the start leave the
    fusion encoder near chance, since it cannot tell whose colour it reads. So the surroundings, and the harder masking
    that needs them, join the joint stage at `surroundings_from_step`, once words find their patches; claims at theirs.
    Questions are the world's own mix, mostly of colours and shapes, until `late_questions_from_step`, then mostly of
    places.
    The learning rate rises over `ramp_steps`, stays, and falls linearly to zero over the last `decay_share` of
    the joint stage. Batches are scenes; each is encoded once and shared by its texts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    training_scenes: PositiveInt = 30_000
    captions_per_scene: PositiveInt = 5
    questions_per_scene: PositiveInt = 8
    batch_scenes: PositiveInt = 64
    questions_per_step: PositiveInt = 4
    vision_steps: int = Field(default=2400, ge=0)
    text_steps: int = Field(default=800, ge=0)
    joint_steps: PositiveInt = 2000
    matching_from_step: int = Field(default=300, ge=0)
    surroundings_from_step: int = Field(default=750, ge=0)
    claims_from_step: int = Field(default=750, ge=0)
    late_questions_from_step: int = Field(default=1250, ge=0)
    masked_word_scenes: PositiveInt = 32
    vision_learning_rate: float = 1e-3
    text_learning_rate: float = 2e-3
    joint_learning_rate: float = 8e-4
    ramp_steps: PositiveInt = 100
    decay_share: float = Field(default=0.4, ge=0, le=1)
    weight_decay: float = 0.02
    beta_2: float = 0.98
    clip_norm: float = 1.0
    early_mask_rate: float = 0.15
    mask_rate: float = 0.25
    answer_weight: float = 2.0
    early_masked_word_weight: float = 0.5
    masked_word_weight: float = 1.0
    matching_weight: float = 1.0
    claims_weight: float = 1.0
    contrast_weight: float = 1.0
    patch_weight: float = 0.5
    facts_weight: float = 0.5
    log_every_steps: PositiveInt = 25
    validate_every_steps: PositiveInt = 250
    validation_scenes: PositiveInt = 200
    final_scenes: PositiveInt = 1000
    final_questions_per_scene: PositiveInt = 2
    rerank_top: PositiveInt = 16

    def rate_factor(self, step: int, steps: int) -> float:
        """Factor of the learning rate at a joint step, 0 .. `steps` - 1."""
        ramp = min(1.0, (step + 1) / self.ramp_steps)
        falling = max(1, round(self.decay_share * steps))
        return ramp * min(1.0, (steps - step) / falling)
