"""A miniature reward model with its export folder, and answers of a policy to score."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from datamodules.encoding import encode
from lit_ixc.backbone import BackboneSource, without_lm_head
from lit_ixc.batch import EncodedMedia
from lit_ixc.heads import LastToken, LinearHead, RewardHead
from lit_ixc.ixc25.image import IXC25ImageProcessor
from lit_ixc.ixc25.miniature import build, mini_config
from lit_ixc.ixc25.processing import IXC25Processor
from lit_ixc.ixc25.tokenizer import train_tokenizer
from lit_ixc.layout import collate
from lit_ixc.records import Comparison, ImagePart, Message, Prompt, TextPart, text_message
from lit_ixc.reward import RewardModule
from lit_ixc.rewards import Episode

NO_MEDIA = EncodedMedia((), {})


def processor(corpus: str = "What is it? user assistant yes no red blue\n", pieces: int = 280) -> IXC25Processor:
    """A processor with a small tokenizer, trained on the corpus, and tiles of 28 pixels."""
    images = IXC25ImageProcessor(tile_size=28, max_tiles=2, max_tiles_multi=1)
    return IXC25Processor(images, train_tokenizer([corpus], pieces))


class Toy(BackboneSource):
    """A model of width 32 for :func:`processor`.

    Args:
        seed: Seed of the weights.
        width: Width of the language model.
        max_positions: Its window, without scaling beyond it; None: positions that are scaled.
    """

    def __init__(self, seed: int = 0, width: int = 32, max_positions: int | None = None) -> None:
        self.seed, self.width, self.max_positions = seed, width, max_positions

    def load(self, lm_head: bool) -> PreTrainedModel:
        sizes = {"hidden_size": self.width, "intermediate_size": 48, "num_hidden_layers": 2, "tile_size": 28}
        vision = {"patch_size": 14, "vision_hidden_size": 16, "vision_layers": 2, "vision_heads": 2}
        config = mini_config(400, initializer_range=0.2, **sizes, **vision)
        if self.max_positions is not None:
            config.max_position_embeddings, config.rope_ntk_factor = self.max_positions, None
        model = build(config, self.seed)
        return model if lm_head else without_lm_head(model)


def linear(hidden_size: int) -> RewardHead:
    return LinearHead(hidden_size, LastToken())


def trained(
    folder: Path, head: Callable[[int], RewardHead] = linear, source: BackboneSource | None = None
) -> RewardModule:
    """A reward model, with its export in a folder."""
    torch.manual_seed(5)
    module = RewardModule(source or Toy(), head=head)
    module.configure_model()
    folder.mkdir(exist_ok=True)
    module.export(folder)
    processor().save_pretrained(folder)
    return module.eval()


def picture(width: int = 28, height: int = 28, colour: str = "red") -> ImagePart:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return ImagePart(f"{colour}.png", buffer.getvalue())


def row(
    question: str, *images: ImagePart, best: str = "yes", name: str = "r", metadata: dict[str, Any] | None = None
) -> Comparison:
    prompt = Prompt((Message("user", (*images, TextPart(question))),))
    return Comparison(name, prompt, ((text_message("assistant", best),),), (0,), metadata=metadata or {})


def episodes(
    record: Comparison, *texts: str, tokens: int = 3, ended: bool = True, media: EncodedMedia = NO_MEDIA
) -> list[Episode]:
    """Answers to a prompt, each of so many tokens."""
    return [Episode(record, text, tuple(range(100, 100 + tokens)), ended, media) for text in texts]


@torch.no_grad()
def own_scores(module: RewardModule, record: Comparison, texts: Sequence[str], pieces: Any) -> list[float]:
    """Scores by the module itself, each answer in a batch of its own, nothing shared."""
    found = []
    for text in texts:
        alone = Comparison(record.id, record.prompt, ((text_message("assistant", text),),), (0,))
        encoded = encode(alone, pieces, "reward", 10_000).comparison
        assert encoded is not None
        found.append(module(collate([encoded], pieces.pad_token_id)).item())
    return found
