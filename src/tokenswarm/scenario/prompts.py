"""Synthetic prompts of a wanted length in the server's own tokens.

A prompt begins with words that spell the request's index, lowest digit first, so that two
requests of a model differ from the first words on and no prefix cache can help. The rest is cut
from a text that is built once a model.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from math import gcd
from typing import NamedTuple, TypeVar

import msgspec

from tokenswarm.scenario.counter import draw, stream
from tokenswarm.scenario.words import WORDS

BODY = 2048
"""Words (or ids) in the text from which prompts are cut."""
DIFFERENT = 2**32
"""So many indices get different first words, where the prompt is long enough for them."""
MAX_WORD_TOKENS = 16
"""Words of more tokens than this are of no use for exact lengths."""
ENOUGH_WORDS = 32
"""With so many words of one token, measure() leaves the longer ones out."""


_CHECKS = stream(0, "vocabulary checks")

T = TypeVar("T")


class Vocabulary(msgspec.Struct, frozen=True):
    """How a server counts the tokens of plain text, for one model and endpoint.

    `words` are (word, tokens) with words joined by one space; `overhead_tokens` is what the
    server counts besides: chat template, system prompt, BOS, and `begin`. `begin` is the word
    that begins every text: many vocabularies split a word without a space before it in another
    way, so counts of the words hold only after it. `exact`: verified against the server.
    `token_ids` (first, last + 1): the endpoint takes lists of ids, `words` are not used.
    """

    words: tuple[tuple[str, int], ...] = ()
    overhead_tokens: int = 0
    begin: str | None = None
    exact: bool = False
    token_ids: tuple[int, int] | None = None


class Drawn(NamedTuple):
    """A prompt's text and the tokens it has by its vocabulary, overhead included."""

    text: str
    tokens: int


def default_vocabulary() -> Vocabulary:
    """Return plain words, assumed to be one token each: the length is near, not exact."""
    return Vocabulary(tuple((word, 1) for word in WORDS))


def text(n_tokens: int, key: int, vocabulary: Vocabulary) -> Drawn:
    """Return text number `key` of `n_tokens` tokens, or the nearest reachable number below."""
    return _words_of(vocabulary).draw(n_tokens, key)


@lru_cache(maxsize=16)
def _words_of(vocabulary: Vocabulary) -> "WordPrompts":
    return WordPrompts(vocabulary, 0)


class WordPrompts:
    """Texts of a wanted number of tokens, by index. ValueError for an unusable vocabulary."""

    def __init__(self, vocabulary: Vocabulary, key: int):
        words = _usable(vocabulary)
        self._key = key
        self._overhead = vocabulary.overhead_tokens
        self._begin = [vocabulary.begin] if vocabulary.begin else []
        self._unit = min(words.values())
        self._heads = [word for word, tokens in words.items() if tokens == self._unit]
        self._digits = _digits(len(self._heads))
        self._fill = _fillings(words)
        self._divisor = gcd(*words.values())
        self._build(words)

    def _build(self, words: dict[str, int]) -> None:
        names = list(words)
        # three times the same words, so that a cut of up to two never runs off the end
        body = 3 * [names[draw(self._key, place) % len(names)] for place in range(BODY)]
        self._body = " ".join(body) + " "
        self._chars = list(accumulate((len(word) + 1 for word in body), initial=0))
        self._tokens = list(accumulate((words[word] for word in body), initial=0))
        self._round = self._tokens[BODY]

    def draw(self, n_tokens: int, index: int) -> Drawn:
        """Return text `index`; its count is `n_tokens` where some words reach it, else below.

        One word is the least: a wish smaller than the overhead gets the overhead and a word.
        """
        least = 0 if self._begin else self._unit
        heads, rest = self._split(max(n_tokens - self._overhead, least))
        parts = self._begin + _spell(index + self._key % DIFFERENT, self._heads, heads)
        if rest:
            # the cut keeps enough tokens that it can be filled exactly whatever it is
            rounds = max(rest - len(self._fill), 0) // self._round
            parts += [self._body[: self._chars[BODY] - 1]] * rounds
            piece = rest - rounds * self._round
            parts += self._cut(index, piece)
        return Drawn(" ".join(parts), self._overhead + heads * self._unit + rest)

    def _split(self, tokens: int) -> tuple[int, int]:
        """Return (number of first words, tokens of the rest), the sum reachable and <= tokens."""
        for total in range(tokens, -1, -1):
            for heads in range(min(self._digits, total // self._unit), -1, -1):
                rest = total - heads * self._unit
                if self._reachable(rest):
                    return heads, rest
        raise AssertionError("no words are always reachable")

    def _reachable(self, tokens: int) -> bool:
        if tokens < len(self._fill):
            return self._fill[tokens] is not None
        return tokens % self._divisor == 0

    def _cut(self, index: int, tokens: int) -> list[str]:
        """Return words of the body from a random place, ended by words that fill exactly."""
        begin = draw(self._key ^ 1, index) % BODY
        end = bisect_right(self._tokens, self._tokens[begin] + tokens) - 1
        while True:
            gap = tokens - (self._tokens[end] - self._tokens[begin])
            filling = self._fill[gap]
            if filling is not None:
                break
            end -= 1
        cut = self._body[self._chars[begin] : self._chars[end] - 1]
        return [cut, *filling] if end > begin else list(filling)


class IdPrompts:
    """Lists of token ids, by index; always exactly as long as wanted."""

    def __init__(self, vocabulary: Vocabulary, key: int):
        low, high = vocabulary.token_ids or (0, 0)
        if not 0 <= low < high:
            raise ValueError(f"token_ids is {vocabulary.token_ids}; give (first, last + 1)")
        self._key = key
        self._overhead = vocabulary.overhead_tokens
        self._ids = range(low, high)
        self._digits = _digits(high - low)
        self._body = 2 * [low + draw(key, place) % (high - low) for place in range(BODY)]

    def draw(self, n_tokens: int, index: int) -> list[int]:
        """Return `n_tokens` less the overhead, at least one, as ids."""
        n_ids = max(n_tokens - self._overhead, 1)
        ids = _spell(index + self._key % DIFFERENT, self._ids, min(n_ids, self._digits))
        rounds, piece = divmod(n_ids - len(ids), BODY)
        begin = draw(self._key ^ 1, index) % BODY
        return ids + self._body[:BODY] * rounds + self._body[begin : begin + piece]


def measure(
    count: Callable[[str], int],
    words: Iterable[str] = WORDS,
    overhead_tokens: int = 0,
    checks: int = 8,
) -> Vocabulary:
    """Return the vocabulary of a server that counts by `count(text)`.

    `overhead_tokens` is what a request has beyond `count` (chat template, system prompt). The
    first word begins every text; what `count` adds to any text (BOS) is in its count. Words of
    one token are found in groups, halving those that have more, so a well-behaved vocabulary
    takes about ten counts. `exact` only if `checks` random texts counted as their words do.
    """
    candidates = list(dict.fromkeys(words))
    if len(candidates) < 2:
        raise ValueError(f"measure needs at least two words, got {len(candidates)}")
    begin = candidates[0]
    alone = count(begin)
    costs = _group_costs(candidates, lambda group: count(" ".join([begin, *group])) - alone)
    plain = {word: 1 for word, tokens in costs.items() if tokens == 1}
    known = plain if len(plain) >= ENOUGH_WORDS else costs
    if len(known) < 2:
        return Vocabulary(default_vocabulary().words, overhead_tokens)
    vocabulary = Vocabulary(tuple(known.items()), alone, begin)
    exact = _verified(vocabulary, count, checks)
    return Vocabulary(vocabulary.words, alone + overhead_tokens, begin, exact)


def _group_costs(group: Sequence[str], cost: Callable[[Sequence[str]], int]) -> dict[str, int]:
    """Return the tokens of each usable word, counting whole groups where all have one."""
    tokens = cost(group)
    if tokens == len(group):
        return dict.fromkeys(group, 1)
    if len(group) == 1:
        return {group[0]: tokens} if 1 <= tokens <= MAX_WORD_TOKENS else {}
    half = len(group) // 2
    return _group_costs(group[:half], cost) | _group_costs(group[half:], cost)


def _verified(vocabulary: Vocabulary, count: Callable[[str], int], checks: int) -> bool:
    """Say whether texts of 1 to a few hundred tokens count as the vocabulary says."""
    prompts = WordPrompts(vocabulary, _CHECKS)
    for index in range(checks):
        wanted = vocabulary.overhead_tokens + 1 + draw(_CHECKS, index) % 2 ** (index + 1)
        drawn = prompts.draw(wanted, index)
        if count(drawn.text) != drawn.tokens:
            return False
    return checks > 0


def _usable(vocabulary: Vocabulary) -> dict[str, int]:
    words = dict(vocabulary.words)
    if not words:
        raise ValueError("the vocabulary has no words; use default_vocabulary()")
    for word, tokens in words.items():
        if not word or word.split() != [word] or not 1 <= tokens <= MAX_WORD_TOKENS:
            raise ValueError(
                f"word {word!r} with {tokens} tokens; words have no spaces"
                f" and 1 to {MAX_WORD_TOKENS} tokens"
            )
    return words


def _digits(base: int) -> int:
    """Return how many words of `base` kinds spell DIFFERENT numbers; 0 when there is one kind."""
    digits, reach = 0, 1
    while base > 1 and reach < DIFFERENT:
        digits, reach = digits + 1, reach * base
    return digits


def _spell(number: int, signs: Sequence[T], digits: int) -> list[T]:
    """Return the lowest `digits` digits of a number, lowest first, as signs."""
    spelt: list[T] = []
    for _ in range(digits):
        number, digit = divmod(number, len(signs))
        spelt.append(signs[digit])
    return spelt


def _fillings(words: dict[str, int]) -> list[tuple[str, ...] | None]:
    """Return for each small number of tokens the fewest words that have exactly so many.

    It reaches beyond the Frobenius number of the counts (below smallest x largest), where every
    multiple of their common divisor is reachable.
    """
    by_tokens = {tokens: word for word, tokens in words.items()}
    unit, longest = min(by_tokens), max(by_tokens)
    fill: list[tuple[str, ...] | None] = [()]
    for tokens in range(1, unit * longest + longest + unit):
        ways = [(tokens - cost, word) for cost, word in by_tokens.items() if cost <= tokens]
        found = [(*rest, word) for left, word in ways if (rest := fill[left]) is not None]
        fill.append(min(found, key=len, default=None))
    return fill
