"""Captions as words: the Penn Treebank tokenisation of the COCO caption evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

from harness.kit.errors import HarnessError
from harness.metrics.java import JARS, run_java, time_limit_s

# What the tokenizer takes for the end of a line.
LINE_BREAKS = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")


def tokenised(texts: Sequence[str]) -> list[str]:
    """Each text in lower case, its words separated by single spaces, without punctuation.

    Stanford's PTBTokenizer with the options and the list of punctuation of pycocoevalcap; that list has brackets in
    capitals and so leaves "-lrb-" and "-rrb-" standing. HarnessError without Java.
    """
    lines = [LINE_BREAKS.sub(" ", text) for text in texts]
    arguments = (
        *("-cp", JARS / "tokenizer" / STANFORD_CORENLP_3_4_1_JAR, "edu.stanford.nlp.process.PTBTokenizer"),
        *("-preserveLines", "-lowerCase", "-encoding", "UTF-8"),
    )
    written = run_java(
        "PTB tokeniser", arguments, "".join(f"{line}\n" for line in lines), limit_s=time_limit_s(len(lines))
    )
    found = written.split("\n")[:-1]
    if len(found) != len(lines):
        raise HarnessError(
            f"PTB tokeniser: {len(found)} lines for {len(lines)} captions; is another corenlp installed?"
        )
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATIONS) for line in found]
