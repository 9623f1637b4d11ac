"""text/math: sums, comparisons and stories in two steps; the wrong answer is right for a neighbouring problem."""

from __future__ import annotations

from random import Random

from datamodules.synthetic.tasks import Instruction, Twins, near_numbers, text_twins

_NAMES = ("Ann", "Ben", "Eva", "Tom", "Lea", "Max")
_THINGS = ("apples", "pens", "books", "cards", "coins", "shells")
_SUMS = ("What is {}?", "Compute {}.", "How much is {}?")


def twins(rng: Random) -> Twins:
    """Two problems in the same words but a number, an operation or a comparison."""
    return rng.choice((_sum, _larger, _story))(rng)


def _sum(rng: Random) -> Twins:
    pattern, sign = rng.choice(_SUMS), rng.choice("+-")
    first = rng.randint(10, 20)
    seconds = near_numbers(rng, 1, 9)

    def one(second: int) -> Instruction:
        value = first + second if sign == "+" else first - second
        return Instruction(pattern.format(f"{first} {sign} {second}"), f"The answer is {value}.", *_final(value))

    return text_twins(one(seconds[0]), one(seconds[1]), grade=abs(seconds[0] - seconds[1]))


def _larger(rng: Random) -> Twins:
    numbers = rng.sample(range(1, 100), 2)
    pattern = rng.choice(("Which number is {}, {} or {}?", "Name the {} number of {} and {}."))

    def one(word: str, value: int) -> Instruction:
        return Instruction(pattern.format(word, *numbers), f"The answer is {value}.", *_final(value))

    return text_twins(one("larger", max(numbers)), one("smaller", min(numbers)), grade=1)


def _story(rng: Random) -> Twins:
    """The change is read as a gain or as a loss: both workings are sound, one of them for another story."""
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    had, more, change = rng.randint(4, 9), rng.randint(1, 6), rng.randint(1, 4)

    def one(verb: str, signed: int) -> Instruction:
        have = had + more
        story = f"{name} has {had} {thing} and buys {more}. Then {name} {verb} {change}."
        prompt = f"{story} How many {thing} are there now?"
        steps = f"{had} + {more} = {have}. {have} {'+' if signed > 0 else '-'} {change} = {have + signed}."
        return Instruction(prompt, f"{steps} The answer is {have + signed}.", *_final(have + signed))

    gain, loss = rng.choice(("finds", "gets")), rng.choice(("loses", "sells"))
    return text_twins(one(gain, change), one(loss, -change), grade=1)


def _final(value: int) -> tuple[str, dict[str, object]]:
    return "final_number", {"value": value}
