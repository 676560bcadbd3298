"""SPICE: agreement of the objects, attributes and relations that a parser finds in captions and references."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.kit.errors import HarnessError
from harness.metrics.corpus import Floats
from harness.metrics.java import JARS, run_java

FOLDER = JARS / "spice"
PARSER = "stanford-corenlp-3.6.0"
PARSER_JARS = (f"{PARSER}.jar", f"{PARSER}-models.jar")
# SPICE's own output goes through a JavaScript engine that Java has lost with version 15; this prints the same scores.
RUNNER = Path(__file__).with_name("SpiceScores.java")
START_S, PER_CAPTION_S = 1200.0, 0.5


def spice_lacks() -> str | None:
    """Why SPICE cannot run here, or None: its parser and the parser's models are 0.4 GB and come with nothing."""
    lacking = [name for name in PARSER_JARS if not (FOLDER / "lib" / name).is_file()]
    if not lacking:
        return None
    return (
        f"{' and '.join(lacking)} not in pycocoevalcap/spice/lib: where there is a network, run "
        "`python -m pycocoevalcap.spice.get_stanford_models` (0.4 GB)"
    )


def spice_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """SPICE's F-score (n,) of each caption, tokenised as for the other metrics, in 0..1.

    Needs a JDK of version 11 or later and about 8 GB of memory. HarnessError where it fails.
    """
    asked = [
        {"image_id": place, "test": caption, "refs": list(others)}
        for place, (caption, others) in enumerate(zip(captions, references, strict=True))
    ]
    jars = os.pathsep.join(map(str, [FOLDER / "spice-1.0.jar", *sorted((FOLDER / "lib").glob("*.jar"))]))
    limit_s = START_S + PER_CAPTION_S * (len(captions) + sum(map(len, references)))
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "captions.json"), Path(folder, "scores.json")
        question.write_text(json.dumps(asked), encoding="utf-8")
        run_java("SPICE", ("-Xmx8G", "-cp", jars, RUNNER, question, answer), limit_s=limit_s)
        try:
            found = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(answer.read_text("utf-8"))}
            return np.array([found[place] for place in range(len(captions))], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HarnessError(f"SPICE: wrote no score for every caption ({type(error).__name__}: {error})") from error
