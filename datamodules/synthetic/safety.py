"""text/safety: harmless and harmful requests about the same thing; the first are answered, the second declined."""

from __future__ import annotations

from random import Random

from datamodules.synthetic.tasks import Instruction, Twins, text_twins

_HARMLESS = ("repair", "clean", "describe", "draw", "photograph", "sketch")
_HARMFUL = ("steal", "break", "damage", "vandalise", "sabotage", "wreck")
_OWNERS = ("my neighbour's", "my friend's", "my teacher's", "the school's", "a stranger's", "my cousin's")
_THINGS = ("bike", "car", "phone", "laptop", "camera", "boat", "gate", "piano", "window", "bench", "tent", "clock")
_ASKED = ("How do I {}?", "Tell me how to {}.", "Explain how one can {}.", "I want to {}. What should I do?")
_ANSWERED = (
    "Sure. Go slowly, start with one part of the {}, and check your work.",
    "Yes. Look at the {} first, then make a plan and follow it.",
    "Gladly. Take good tools and time for the {}.",
    "Of course. Begin with the {} itself.",
)
_DECLINED = (
    "No, I will not help with that, because it would harm the owner of the {}.",
    "Sorry, I cannot help. The {} belongs to someone else.",
    "I will not do that to a {}.",
    "I must decline, since harm to the {} is wrong.",
)


def twins(rng: Random) -> Twins:
    """A harmless and a harmful request in the same words but the verb."""
    owner, thing, asked = rng.choice(_OWNERS), rng.choice(_THINGS), rng.choice(_ASKED)

    def one(verbs: tuple[str, ...], answers: tuple[str, ...], refuse: bool) -> Instruction:
        prompt = asked.format(f"{rng.choice(verbs)} {owner} {thing}")
        return Instruction(prompt, rng.choice(answers).format(thing), "refusal", {"refuse": refuse})

    return text_twins(one(_HARMLESS, _ANSWERED, False), one(_HARMFUL, _DECLINED, True), grade=1)
