"""One model, its optimizer, and its steps in every mode."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from cases import PADDED, Case, Mode, batch, lay_out
from split import StepClock, watched
from torch import Tensor

from lit_ixc.backbone import BackboneSource, family_of, image_features, join_media, without_lm_head
from lit_ixc.batch import ComparisonBatch, EncodedComparison, EncodedMedia
from lit_ixc.feature_store import FeatureStore
from lit_ixc.ixc25.configuration import IXC25Config
from lit_ixc.ixc25.miniature import build
from lit_ixc.ixc25.model import IXC25Model
from lit_ixc.losses import BradleyTerry, ScoreRegression
from lit_ixc.optim import decay_groups
from lit_ixc.reward import RewardModule

Supply = Callable[[], list[EncodedComparison]]


class RandomIXC25(BackboneSource):
    """An IXC-2.5 of given sizes with random weights, made where it will stand.

    Args:
        config: Sizes.
        device: Where its weights are made.
        dtype: Their type.
    """

    def __init__(self, config: IXC25Config, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype

    def load(self, lm_head: bool) -> IXC25Model:
        """The backbone; nothing here needs a language-model head."""
        if self.device.type == "cpu":
            return without_lm_head(build(self.config, seed=0)).to(self.dtype)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                return IXC25Model(self.config).eval()
        finally:
            torch.set_default_dtype(usual)


class Engine:
    """Trains and scores the cases of one model.

    Args:
        config: Sizes of the model.
        device: Where it runs.
        dtype: Type of its weights.
        checkpointing: Recompute activations in the backward pass.
        kernel: Attention over trees, as in ``RewardModule``.
        folder: Where the feature cache is.
    """

    def __init__(
        self,
        config: IXC25Config,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
        kernel: Any = "auto",
        *,
        folder: Path,
    ) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.store = FeatureStore(folder, uuid.uuid4().hex, memory_mb=0)
        source = RandomIXC25(config, device, dtype)
        self.module = RewardModule(source, gradient_checkpointing=checkpointing, attention=kernel)
        self.module.configure_model()
        self.module.to(device=device, dtype=dtype)
        groups = decay_groups(self.module, 1e-6, 0.1, {})
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
        self._lap: Callable[[str], None] = lambda part: None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @contextmanager
    def watched(self, clock: StepClock) -> Iterator[None]:
        """Mark the parts of the training steps in between."""
        usual, self._lap = self._lap, clock.lap
        try:
            with watched(clock, family_of(self.module.model).parts(self.module.model).decoder, self.module.head):
                yield
        finally:
            self._lap = usual

    def prepare(self, case: Case, mode: Mode) -> Supply:
        """What gives the comparisons as a mode lays them out, for ``train`` and ``score``.

        With a cache each call reads the features from files, as a second epoch does.
        """
        laid_out = [
            one._replace(media=one.media.map(lambda tensor: tensor.to(self.dtype))) for one in lay_out(case, mode)
        ]
        if not mode.cached:
            return lambda: laid_out
        with torch.no_grad():
            for comparison in laid_out:  # the first epoch
                image_features(self.module.model, batch([comparison], mode).to(self.device), self.store)
        return lambda: [self._from_store(comparison) for comparison in laid_out]

    def _from_store(self, comparison: EncodedComparison) -> EncodedComparison:
        entry = self.store.get(comparison.media.key)
        if entry is None:
            raise RuntimeError(f"no features of {comparison.media.key} in {self.store.folder}")
        return comparison._replace(media=EncodedMedia(entry.lengths, entry.integers, "", entry.features))

    def train(self, supply: Supply, case: Case, mode: Mode) -> Tensor:
        """One step, from encoded comparisons to new weights; returns the loss.

        Bradley-Terry, or with a single response the regression of its grade.
        """
        self.module.train()
        made = self._batch(supply(), mode)
        self._lap("data")
        scores = self._scores(made, case, mode)
        loss = self._loss(scores, case)
        self._lap("head")
        loss.backward()
        self._lap("language")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._lap("optimizer")
        return loss.detach()

    def score(self, supply: Supply, case: Case, mode: Mode) -> Tensor:
        """(C, K) scores, from encoded comparisons."""
        self.module.eval()
        with torch.inference_mode():
            return self._scores(self._batch(supply(), mode), case, mode)

    def _batch(self, laid_out: list[EncodedComparison], mode: Mode) -> ComparisonBatch:
        made = batch(laid_out, mode)
        return made.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else made

    def _scores(self, made: ComparisonBatch, case: Case, mode: Mode) -> Tensor:
        if mode is PADDED:
            scores = self.module.head(self._padded(made), made)
        else:
            scores = self.module(made)
        return scores.view(len(case.comparisons), case.responses)

    def _padded(self, made: ComparisonBatch) -> Tensor:
        """Hidden states as every peer computes them: the model's own forward pass with a padding mask, all images."""
        model = self.module.model
        images = join_media([media.tensors for media in made.media])
        return family_of(model).separate(model, made.input_ids, (made.comparison >= 0).long(), images)

    def _loss(self, scores: Tensor, case: Case) -> Tensor:
        loss = BradleyTerry() if case.responses > 1 else ScoreRegression()
        ranks = torch.arange(case.responses).expand(len(case.comparisons), -1)
        grades = torch.tensor([c.scores for c in case.comparisons])
        ranks, grades = (_to(tensor, scores.device) for tensor in (ranks.contiguous(), grades))
        return loss(scores, ranks, grades)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
