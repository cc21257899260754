import random
import time

import pytest

from owpo.problems.chain_addition import ChainAddition
from owpo.problems.overlap import Pair, bare, find_overlap, normalised
from owpo.problems.problem import Problem

TRAIN = (
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. When she walks at a "
    "constant speed of $s$ kilometers per hour, the walk takes her 4 hours, including $t$ minutes spent in the shop."
)


def problems(*prompts: str, name: str = "p") -> list[Problem]:
    return [Problem(id=f"{name}{index}", prompt=prompt, answer="1") for index, prompt in enumerate(prompts)]


def share(train: str, other: str) -> float | None:
    """The share of a near pair; None where the two are none; 1 for the same text."""
    pairs = find_overlap(problems(train), problems(other)).pairs
    return pairs[0].share if pairs else None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Find $x + y$.", "Find x+y.", True),
        ("Find  \\(x\\)\nnow", "Find $x$ now", True),
        ("\\[x\\,=\\;1\\quad\\left(y\\right)~\\]", "x=1(y)", True),
        ("$x \\leftarrow 1$", "$x \\lefta 1$", False),
        ("１２ cats", "12 cats", True),
        ("1 23", "12 3", False),
        ("is a", "isa", False),
        ("Find $A$", "Find $a$", False),
        ("x - y", "x + y", False),
    ],
)
def test_the_same_text(one: str, other: str, same: bool) -> None:
    assert (bare(one) == bare(other)) is same
    pairs = find_overlap(problems(one), problems(other)).pairs
    assert [pair.kind for pair in pairs] == (["same text"] if same else [])


def test_normalised_keeps_case_and_folds_encodings() -> None:
    assert normalised(" a\u00a0 B\n") == "a B"
    assert normalised("ﬁ ① cafe\u0301") == "fi 1 caf\u00e9"


def test_every_affected_problem_is_in_a_pair_but_not_every_pair_is_listed() -> None:
    overlap = find_overlap(problems(*["a b"] * 100, "c"), problems(*["a  b"] * 50, "d", name="q"))
    assert len(overlap.pairs) == 100 + 49
    assert overlap.ids("train") == [f"p{n}" for n in range(100)]
    assert overlap.ids("other") == [f"q{n}" for n in range(50)]
    assert (overlap.trained, overlap.other) == (101, 51)


def test_an_instruction_around_the_problem_does_not_hide_it() -> None:
    wrapped = f"Solve the following problem, 10 points. {TRAIN} Put the answer into a box."
    assert share(wrapped, TRAIN) == 1.0
    assert share(TRAIN, wrapped) is not None


def test_the_share_is_the_fraction_of_the_others_ngrams() -> None:
    words = [f"word{chr(97 + n)}" for n in range(26)]
    text = " ".join(words)  # 26 words: 14 n-grams of 13
    assert share(" ".join([*words[:20], "else"]), text) == 8 / 14  # those that end within the first 20 words
    assert share(" ".join(words[:19]), text) == 7 / 14
    assert share(" ".join(words[:18]), text) is None
    assert share(" ".join(words[:13]), " ".join(words[:16])) == 6 / 9  # 16 words: n = 8
    assert share(" ".join(words[:8]), " ".join(words[:10])) == 4 / 6  # 10 words: n = 5
    assert share(" ".join(words[:9]), " ".join(words[1:9])) is None  # 8 words: as a whole only


def test_markup_case_and_spelling_of_latex_do_not_hide_a_near_copy() -> None:
    assert share(TRAIN, TRAIN.replace("$", "").upper() + " Find it.") is not None
    one = (
        "Compute the value of $\\dfrac{1}{2}$ of the sum of all of the roots of the given polynomial, please"
    )
    assert share(one, one.replace("\\dfrac", "\\frac").replace("please", "now")) is not None


def test_the_same_story_with_other_numbers_is_another_problem() -> None:
    assert share(TRAIN, TRAIN + " Now.") is not None
    assert share(TRAIN.replace("4 hours", "5 hours"), TRAIN) is None
    assert share(TRAIN.replace("$9$", "$10$"), TRAIN) is None


def test_chinese_is_compared_by_character() -> None:
    text = "已知三角形的三边长分别为三个连续的正整数且最大角是最小角的两倍求这个三角形的周长"
    assert share(text, f"请解答{text}谢谢") is not None
    assert (
        share(text, "求所有满足条件的正整数使得它的各位数字之和等于它的平方根并且它的位数不超过四位") is None
    )


def test_a_template_around_all_of_them_is_not_an_overlap() -> None:
    frame = (
        "Solve the following math problem step by step and put the answer on the last line of the response, without "
        "quotes. Check every step twice before you write the answer down. {}"
    )
    train = [frame.format(f"Name a prime that divides the value of the {animal}.") for animal in ANIMALS[:25]]
    other = [frame.format(f"Draw a circle that touches a side of the {animal}.") for animal in ANIMALS[25:]]
    assert find_overlap(problems(*train), problems(*other, name="q")).pairs == ()
    assert (
        find_overlap(problems(*train[:2]), problems(*other[:2], name="q")).pairs != ()
    )  # no template is told by two


ANIMALS = [f"{a}{b}" for a in ("cat", "dog", "owl", "ant", "bee") for b in "klmnopqrst"]


@pytest.mark.parametrize("terms", [(2, 4), (5, 9), (10, 16)])
def test_generated_additions_raise_no_false_alarm(terms: tuple[int, int]) -> None:
    train = ChainAddition(terms=terms).generate(2000, split="train", seed=0)
    report = ChainAddition(terms=terms).generate(150, split="report", seed=1)  # apart by construction
    assert find_overlap(train, report).pairs == ()
    assert len(find_overlap(train, train[:150]).ids("other", "same text")) == 150


@pytest.mark.parametrize("words", [8, 16, 30])
def test_generated_additions_in_a_frame_raise_no_false_alarm(words: int) -> None:
    frame = " ".join([f"frame{chr(97 + n)}" for n in range(words)]) + " "
    train = ChainAddition(terms=(2, 6)).generate(2000, split="train", seed=0)
    report = ChainAddition(terms=(2, 6)).generate(150, split="report", seed=1)
    framed = [problems(*[frame + problem.prompt for problem in each], name="p") for each in (train, report)]
    assert find_overlap(*framed).pairs == ()


def templated(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        f"{rng.choice(['Tom', 'Ann', 'Bo', 'Eve'])} has {rng.randint(2, 99)} apples in a basket and buys "
        f"{rng.randint(2, 99)} more apples at the market on the way home. {rng.choice(['He', 'She'])} then gives "
        f"{rng.randint(2, 99)} apples to a friend. How many apples are left in the basket at the end of the day?"
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [10, 2000])  # below and above the number that tells a template
def test_word_problems_from_one_template_with_other_numbers_raise_no_false_alarm(count: int) -> None:
    train, other = templated(count, seed=0), templated(100, seed=1)

    def numbers(text: str) -> list[str]:
        return [word for word in text.split() if word.isdigit()]

    same_numbers = {tuple(numbers(text)) for text in train}
    fresh = [text for text in other if tuple(numbers(text)) not in same_numbers]
    assert len(fresh) > 90
    assert find_overlap(problems(*train), problems(*fresh, name="q")).pairs == ()


def random_texts(rng: random.Random, count: int, length: int) -> list[str]:
    return [" ".join(f"w{rng.randint(0, 5000)}" for _ in range(length)) for _ in range(count)]


def test_near_copies_among_many_are_found_and_time_stays_linear() -> None:
    rng = random.Random(0)
    train, other = random_texts(rng, 5000, 60), random_texts(rng, 300, 60)
    for index in range(20):
        words = train[7 * index].split()
        words[-2:] = ["changed", "end"]
        other[index] = " ".join(words)
    start = time.process_time()
    overlap = find_overlap(problems(*train), problems(*other, name="q"))
    assert time.process_time() - start < 60  # 5000 x 300 comparisons of texts would take far longer
    assert {(pair.train_id, pair.other_id) for pair in overlap.pairs} == {
        (f"p{7 * n}", f"q{n}") for n in range(20)
    }
    assert {pair.kind for pair in overlap.pairs} == {"shared n-grams"}
    assert all(pair.share > 0.9 for pair in overlap.pairs)


def test_a_huge_text_is_no_trouble() -> None:
    huge = "A very long story with a number like 7 in it. " * 25_000
    assert share(huge, TRAIN) is None
    assert share(huge, huge) == 1.0


def test_the_description_counts_each_problem_once() -> None:
    near = TRAIN + " Find it."
    overlap = find_overlap(
        problems(TRAIN, "What is 1+1?"), problems("What is 1 + 1?", near, "new", "too", name="q")
    )
    assert overlap.pairs[0] == Pair("p1", "q0", "same text", 1.0)
    assert overlap.pairs[1].share < 1
    text = overlap.describe()
    assert "1 of the 4 problems (25.0%) have the text" in text
    assert "1 more (25.0%) share at least half" in text
    assert "2 of the 2 training problems" in text
    assert "'p1' in training and 'q0' (same text, share 100%)" in text
    assert "\n" not in text
    assert find_overlap(problems("a"), problems("b")).describe().startswith("None of the 1 problems")


def test_a_shorter_ngram_finds_more_and_is_bounded() -> None:
    words = [f"word{chr(97 + n)}" for n in range(26)]
    torn = " ".join([*words[:12], "x", *words[13:25]])
    assert find_overlap(problems(torn), problems(" ".join(words))).pairs == ()
    assert find_overlap(problems(torn), problems(" ".join(words)), ngram=5).pairs[0].share == (8 + 8) / 22
    with pytest.raises(ValueError, match="ngram must be at least 5, got 4"):
        find_overlap([], [], ngram=4)
