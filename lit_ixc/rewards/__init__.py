"""Rewards of a policy's answers: learned, checked by rules, computed by other programs; composable with weights."""

from lit_ixc.rewards.interface import Combined, Episode, Judgement, Reward, Step, combine

__all__ = ["Combined", "Episode", "Judgement", "Reward", "Step", "combine"]
