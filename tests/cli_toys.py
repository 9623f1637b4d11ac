"""A model and data of a few numbers, named by class path in the tests of the command line."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_ixc.records import UserError

#: What the last run was built with, for the tests to look at.
SEEN: dict[str, object] = {}


class Head(nn.Module):
    """Scores a vector.

    Args:
        scale: Factor of the score.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale


class Model(LightningModule):
    """A linear model.

    Args:
        head: Scores a vector.
        rate: Learning rate.
        source: Where the processor lies.
        failure: ``bug`` or ``input``: what to raise while running.
    """

    def __init__(self, head: Head, rate: float = 0.1, source: str = "none", failure: str = "none") -> None:
        super().__init__()
        self.save_hyperparameters()
        if rate < 0:
            raise UserError(f"rate = {rate}: a learning rate is not negative; give one above 0")
        self.head, self.rate, self.failure = head, rate, failure
        self.layer = nn.Linear(2, 1)
        SEEN.update(rate=rate, source=source)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.failure == "bug":
            raise RuntimeError("a bug in the step")
        if self.failure == "input":
            raise UserError("row 3: no answer; give one")
        return self.layer(batch).mean()

    def test_step(self, batch: Tensor, index: int) -> None:
        self.log("score", self.layer(batch).mean() * self.head.scale)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate)


class Data(LightningDataModule):
    """Two rows of noise.

    Args:
        root: Folder of the data.
        weights: Weight of each source.
    """

    def __init__(self, root: str, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        if weights is not None and not weights:
            raise ValueError("weights = {}: the mix is empty; name at least one source")
        SEEN["root"] = root

    def train_dataloader(self) -> DataLoader:
        return DataLoader(torch.randn(2, 2))

    def test_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(2, 2))


def command(argv: list[str]) -> int:
    """A command beside the Trainer's."""
    SEEN["argv"] = argv
    return 7
