"""A vocabulary of word pieces built from captions, for hosts that start without one.

The library's own trainers of word pieces give another vocabulary in each process (their ties are broken by hash
order), so this one is plain: every character, then the commonest words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from harness.hosts.parts.tokenizer import SPECIAL_WORDS
from harness.kit.errors import HarnessError


def build_vocabulary(captions: Iterable[str], size: int, extra: Sequence[str] = ()) -> list[str]:
    """At most `size` word pieces: BERT's special words, `extra` ones, the characters, the commonest words.

    Lower-cased and split as BERT does; a word outside is spelt. Characters stand alone and, as "##c", inside a word;
    the rarest of them give way where there is no room. Ties go to the lower code point. Raises HarnessError for a size
    that holds little more than the special words.
    """
    special = [*SPECIAL_WORDS, *extra]
    if size < len(special) + 52:
        raise HarnessError(f"vocabulary of {size} words: expected at least {len(special) + 52}")
    normalise, split = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = Counter(
        word for caption in captions for word, _ in split.pre_tokenize_str(normalise.normalize_str(caption))
    )
    characters: Counter[str] = Counter()
    for word, count in words.items():
        characters.update({character: count * word.count(character) for character in set(word)})
    room = (size - len(special)) // 2
    letters = _commonest(characters)[:room]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    taken = set(pieces)
    return [*pieces, *(word for word in _commonest(words) if word not in taken)][:size]


def _commonest(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda piece: (-counts[piece], piece))
