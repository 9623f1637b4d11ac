"""Miniature IXC-2.5 models with the real architecture: one for tests, one for training on a CPU."""

from __future__ import annotations

import torch

from lit_ixc.ixc25.configuration import IXC25Config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration


def tiny_config(vocab_size: int = 320, image_token_id: int = 319) -> IXC25Config:
    """Smallest sizes for tests: two layers, tiles of 56 px, 13 visual tokens for an image of 1 x 1 tile."""
    return mini_config(
        vocab_size,
        image_token_id,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=2,
        tile_size=56,
        patch_size=14,
        vision_hidden_size=32,
        vision_layers=2,
        max_position_embeddings=512,
        initializer_range=0.1,
    )


def mini_config(
    vocab_size: int = 2048,
    image_token_id: int = 6,
    *,
    hidden_size: int = 128,
    intermediate_size: int = 256,
    num_hidden_layers: int = 4,
    num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
    plora_rank: int = 8,
    plora_dropout: float = 0.05,
    tile_size: int = 64,
    patch_size: int = 8,
    vision_hidden_size: int = 64,
    vision_layers: int = 2,
    vision_heads: int = 4,
    max_position_embeddings: int = 4096,
    initializer_range: float = 0.06,
    bos_token_id: int = 1,
    eos_token_id: int = 2,
    pad_token_id: int = 2,
) -> IXC25Config:
    """Sizes for training from random weights on a CPU, about 1M parameters with a vocabulary of 1024.

    Args:
        vocab_size: tokens of the miniature tokenizer.
        image_token_id: its id for visual positions; the default is that of `train_tokenizer`.
        hidden_size: width of the language model.
        intermediate_size: width of its feed-forward blocks.
        num_hidden_layers: its layers.
        num_attention_heads: its query heads.
        num_key_value_heads: its key/value heads.
        plora_rank: rank, and alpha, of PLoRA.
        plora_dropout: dropout of PLoRA.
        tile_size: side of a tile in pixels; with `patch_size` it sets the visual tokens per tile,
            (tile_size / patch_size / 2)^2.
        patch_size: side of a vision patch in pixels.
        vision_hidden_size: width of the vision tower; its feed-forward blocks are twice as wide.
        vision_layers: its layers.
        vision_heads: its heads.
        max_position_embeddings: length from which rotary angles are scaled.
        initializer_range: standard deviation of the language model's start. Small widths need a larger one than the
            release's 0.02 for signals to pass the layers; about 1 / sqrt(hidden_size) at most.
        bos_token_id: id that begins a text.
        eos_token_id: id that ends it.
        pad_token_id: id of padding.
    """
    return IXC25Config(
        vision_config={
            "hidden_size": vision_hidden_size,
            "intermediate_size": 2 * vision_hidden_size,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": vision_heads,
            "image_size": tile_size,
            "patch_size": patch_size,
            "projection_dim": vision_hidden_size,
        },
        vocab_size=vocab_size,
        image_token_id=image_token_id,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        plora_rank=plora_rank,
        plora_alpha=plora_rank,
        plora_dropout=plora_dropout,
        max_position_embeddings=max_position_embeddings,
        initializer_range=initializer_range,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def build(config: IXC25Config, seed: int) -> IXC25ForConditionalGeneration:
    """A model with random weights that depend on the seed alone; the caller's random state is left as it was.

    Returned in evaluation mode, as `from_pretrained` does: call `.train()` before training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IXC25ForConditionalGeneration(config).eval()
