"""Synthetic prompts of exact length, and how a server's counting is measured."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenswarm.scenario.prompts import (
    ENOUGH_WORDS,
    IdPrompts,
    Vocabulary,
    WordPrompts,
    default_vocabulary,
    measure,
    text,
)
from tokenswarm.scenario.words import WORDS

VOCABULARIES = st.builds(
    Vocabulary,
    words=st.lists(st.integers(1, 6), min_size=2, max_size=8).map(
        lambda costs: tuple((f"w{number}", cost) for number, cost in enumerate(costs))
    ),
    overhead_tokens=st.integers(0, 20),
    begin=st.none() | st.just("w0"),
    exact=st.just(True),
)


def counted(text: str, vocabulary: Vocabulary) -> int:
    cost = dict(vocabulary.words)
    words = text.split(" ")
    if vocabulary.begin is not None:
        assert words.pop(0) == vocabulary.begin
    return vocabulary.overhead_tokens + sum(cost[word] for word in words)


def reachable(vocabulary: Vocabulary, limit: int) -> set[int]:
    """Every sum of words below limit, by brute force; no words only after a beginning."""
    costs = {cost for _, cost in vocabulary.words}
    sums = {0}
    for total in range(1, limit):
        if any(total - cost in sums for cost in costs):
            sums.add(total)
    return {vocabulary.overhead_tokens + total for total in sums if total or vocabulary.begin}


@given(VOCABULARIES, st.integers(1, 150), st.integers(0, 2**40))
@settings(deadline=None, max_examples=60)
def test_a_text_has_the_length_wanted_or_the_nearest_reachable_below(
    vocabulary: Vocabulary, wanted: int, index: int
) -> None:
    drawn = text(wanted, index, vocabulary)
    sums = reachable(vocabulary, 160)
    best = max((total for total in sums if total <= wanted), default=min(sums))
    assert drawn.tokens == best
    assert counted(drawn.text, vocabulary) == drawn.tokens


@pytest.mark.parametrize("wanted", [1, 2, 3, 127, 128, 2047, 2048, 2049, 4097, 10_000])
def test_plain_words_reach_every_length_also_beyond_the_prepared_text(wanted: int) -> None:
    drawn = text(wanted, 5, default_vocabulary())
    assert drawn.tokens == wanted
    assert len(drawn.text.split(" ")) == wanted


@pytest.mark.parametrize("wanted", [5000, 5001, 12_345])
def test_words_of_several_tokens_reach_long_lengths_too(wanted: int) -> None:
    vocabulary = Vocabulary((("aa", 2), ("bbb", 3)), 7, exact=True)
    drawn = text(wanted, 1, vocabulary)
    assert drawn.tokens == wanted == counted(drawn.text, vocabulary)


def test_texts_of_two_indices_differ_from_the_first_words_on() -> None:
    prompts = WordPrompts(default_vocabulary(), 99)
    heads = [tuple(prompts.draw(64, index).text.split(" ")[:4]) for index in range(3000)]
    assert len(set(heads)) == 3000
    neighbours = itertools.pairwise(heads)
    assert all(a[0] != b[0] for a, b in neighbours)


def test_a_wish_below_the_overhead_gets_one_word_and_says_so() -> None:
    drawn = text(3, 0, Vocabulary((("a", 1), ("b", 1)), 10))
    assert drawn.tokens == 11
    assert drawn.text in ("a", "b")


def test_default_words_are_plain_distinct_and_not_claimed_to_be_exact() -> None:
    vocabulary = default_vocabulary()
    assert not vocabulary.exact
    assert len(set(WORDS)) == len(WORDS) > 400
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


@pytest.mark.parametrize(
    "words",
    [
        (),
        (("", 1),),  # no word
        (("two words", 2),),
        (("a", 0),),  # a word without tokens
        (("a", 17),),  # longer than any use
    ],
)
def test_an_unusable_vocabulary_is_refused(words: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(ValueError, match="word"):
        WordPrompts(Vocabulary(words), 0)


@pytest.mark.parametrize("wanted", [1, 2, 40, 2048, 5000])
def test_ids_are_as_many_as_wanted_less_the_overhead_and_in_range(wanted: int) -> None:
    ids = IdPrompts(Vocabulary(token_ids=(100, 200), overhead_tokens=1), 3).draw(wanted, 8)
    assert len(ids) == max(wanted - 1, 1)
    assert set(ids) <= set(range(100, 200))


def test_ids_of_two_indices_differ_from_the_first_ones_on() -> None:
    prompts = IdPrompts(Vocabulary(token_ids=(100, 200)), 3)
    assert len({tuple(prompts.draw(64, index)[:5]) for index in range(3000)}) == 3000


@pytest.mark.parametrize("ids", [None, (5, 5), (-1, 4)])
def test_an_empty_range_of_ids_is_refused(ids: tuple[int, int] | None) -> None:
    with pytest.raises(ValueError, match="token_ids"):
        IdPrompts(Vocabulary(token_ids=ids), 0)


# -- measuring a server


class Counting:
    """A tokenizer: a rule for a text, and how often it was asked."""

    def __init__(self, rule: Callable[[list[str]], int]):
        self.rule = rule
        self.calls = 0

    def __call__(self, text: str) -> int:
        self.calls += 1
        return self.rule(text.split(" "))


def test_a_server_with_one_token_a_word_is_measured_exactly_in_few_questions() -> None:
    count = Counting(lambda words: 1 + len(words))  # 1: BOS
    vocabulary = measure(count, overhead_tokens=20)
    assert vocabulary.exact
    assert (vocabulary.begin, vocabulary.overhead_tokens) == (WORDS[0], 22)
    assert dict(vocabulary.words) == dict.fromkeys(WORDS, 1)
    assert count.calls <= 12


def test_words_of_several_tokens_are_found_and_left_out_where_enough_others_are() -> None:
    count = Counting(lambda words: sum(2 if word.startswith("s") else 1 for word in words))
    words = [f"s{n}" for n in range(9)] + [f"w{n}" for n in range(ENOUGH_WORDS)]
    vocabulary = measure(count, words)
    assert vocabulary.exact
    assert dict(vocabulary.words) == {f"w{n}": 1 for n in range(ENOUGH_WORDS)}


def test_words_of_several_tokens_are_kept_where_others_are_few() -> None:
    count = Counting(lambda words: 3 + sum(map(len, words)))  # bytes are tokens
    vocabulary = measure(count, ["a", "bb", "cccc", "x" * 40])
    assert dict(vocabulary.words) == {"a": 1, "bb": 2, "cccc": 4}
    assert (vocabulary.exact, vocabulary.overhead_tokens) == (True, 3 + 1)


def test_words_that_count_differently_at_the_beginning_do_not_spoil_exactness() -> None:
    count = Counting(lambda words: len(words) + len(words[0]) % 3)
    vocabulary = measure(count)
    assert vocabulary.exact
    for index in range(50):
        drawn = text(10 + index, index, vocabulary)
        assert count(drawn.text) == drawn.tokens == 10 + index


@pytest.mark.parametrize(
    "rule",
    [
        # pairs of words melt into one token
        lambda words: (len(words) + 1) // 2,
        # a long text costs more
        lambda words: len(words) + len(words) // 20,
        # a word costs more after another one
        lambda words: len(words) + 3 * sum(a < b for a, b in itertools.pairwise(words)),
        # the same, whatever is asked
        lambda words: 5,
    ],
)
def test_a_server_whose_counts_do_not_add_up_is_never_called_exact(
    rule: Callable[[list[str]], int],
) -> None:
    vocabulary = measure(Counting(rule), overhead_tokens=4)
    assert not vocabulary.exact
    assert text(50, 1, vocabulary).text


def test_measuring_needs_two_words() -> None:
    with pytest.raises(ValueError, match="at least two words, got 1"):
        measure(Counting(len), ["a", "a"])
