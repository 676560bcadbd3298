"""Mean and deviation of the three colours, in 0..1, that hosts take from images before they read them."""

from __future__ import annotations

# OpenAI's CLIP normalises by these (released clip/clip.py), and ALBEF, BLIP and METER after it.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
