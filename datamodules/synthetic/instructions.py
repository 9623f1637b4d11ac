"""text/instruction_following: constraints that a program can check, met by one answer and just missed by the other."""

from __future__ import annotations

from random import Random

from datamodules.synthetic.tasks import Instruction, Twins, near_numbers, text_twins

_WORDS = ("sun", "moon", "tree", "river", "house", "garden", "book", "lamp", "rain", "window", "bird", "stone")
_LISTS = {
    "animals": ("cat", "dog", "cow", "horse", "goat", "hen", "fox", "rabbit"),
    "fruits": ("apple", "pear", "plum", "fig", "lemon", "cherry", "peach", "melon"),
    "colours": ("red", "green", "blue", "yellow", "purple", "black", "white", "brown"),
}
_CASES = {"upper": str.upper, "lower": str.lower}
_SENTENCES = ("I can see the {}.", "We talk about the {}.", "She likes the old {}.", "They walk to the {}.")


def twins(rng: Random) -> Twins:
    """Two prompts that differ in one constraint."""
    return rng.choice((_repeat, _case, _list, _ending, _keyword))(rng)


def _repeat(rng: Random) -> Twins:
    word, numbers = rng.choice(_WORDS), near_numbers(rng, 1, 6)
    pattern = rng.choice(("Repeat the word {} {} times.", "Write the word {} {} times.", "Say the word {} {} times."))

    def one(times: int) -> Instruction:
        prompt = pattern.format(word, times).replace(" 1 times", " 1 time")
        return Instruction(prompt, " ".join([word] * times), "repeat_word", {"word": word, "times": times})

    return text_twins(one(numbers[0]), one(numbers[1]), grade=abs(numbers[0] - numbers[1]))


def _case(rng: Random) -> Twins:
    text = f"{rng.choice(_WORDS)} and {rng.choice(_WORDS)}"
    pattern = rng.choice(('Write "{}" in {} case.', 'Copy "{}" in {} case.'))

    def one(case: str) -> Instruction:
        answer = _CASES[case](text)
        return Instruction(pattern.format(text, case), answer, "exact_match", {"answer": answer, "ignore_case": False})

    return text_twins(one("upper"), one("lower"), grade=1)


def _list(rng: Random) -> Twins:
    changed = rng.choice(("count", "case", "category"))
    counts = near_numbers(rng, 2, 5) if changed == "count" else (rng.randint(2, 5),) * 2
    cases = rng.sample(list(_CASES), 2) if changed == "case" else [rng.choice(list(_CASES))] * 2
    categories = rng.sample(list(_LISTS), 2) if changed == "category" else [rng.choice(list(_LISTS))] * 2
    pattern = rng.choice(("List {} {} in {} case.", "Name {} {} in {} case."))

    def one(count: int, case: str, category: str) -> Instruction:
        answer = ", ".join(map(_CASES[case], rng.sample(_LISTS[category], count)))
        arguments: dict[str, object] = {"count": count, "case": case, "allowed": list(_LISTS[category])}
        return Instruction(pattern.format(count, category, case), answer, "list", arguments)

    first, second = (one(*words) for words in zip(counts, cases, categories, strict=True))
    return text_twins(first, second, grade=abs(counts[0] - counts[1]) if changed == "count" else 1)


def _ending(rng: Random) -> Twins:
    first, second = rng.sample(_WORDS, 2)
    pattern = rng.choice(("Write a sentence that ends with the word {}.", "End a sentence with the word {}."))

    def one(word: str) -> Instruction:
        return Instruction(pattern.format(word), rng.choice(_SENTENCES).format(word), "ends_with", {"word": word})

    return text_twins(one(first), one(second), grade=1)


def _keyword(rng: Random) -> Twins:
    first, second = rng.sample(_WORDS, 2)
    pattern = rng.choice(("Write a sentence with {} but without {}.", "Use the word {}, not {}, in a sentence."))

    def one(word: str, other: str) -> Instruction:
        arguments: dict[str, object] = {"include": [word], "exclude": [other]}
        return Instruction(pattern.format(word, other), rng.choice(_SENTENCES).format(word), "keywords", arguments)

    return text_twins(one(first, second), one(second, first), grade=1)
