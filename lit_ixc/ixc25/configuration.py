"""Configuration of InternLM-XComposer2.5 (IXC-2.5); the defaults are the released 7B."""

# No `from __future__ import annotations` here: `strict` checks the types of fields by their evaluated annotations.
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPVisionConfig, PreTrainedConfig

# CLIP ViT-L/14 at 560 px, the vision tower of the released model (architecture notes, section 3).
RELEASED_VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 560,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


@strict
class IXC25Config(PreTrainedConfig):
    """Sizes and options of IXC-2.5. The language model's fields are flat, the vision tower's lie in `vision_config`.

    Args:
        vision_config: the CLIP vision tower, a `CLIPVisionConfig` or its fields; None is the released tower. Its
            `image_size` is the side of one tile in pixels.
        vocab_size: rows of the token embedding and of the output head.
        hidden_size: width H of the language model.
        intermediate_size: width F of the feed-forward blocks.
        num_hidden_layers: decoder layers L.
        num_attention_heads: query heads n.
        num_key_value_heads: key/value heads m; n must be a multiple of m.
        hidden_act: activation of the feed-forward gate.
        max_position_embeddings: length M up to which plain rotary angles are used.
        initializer_range: standard deviation of the normal initialisation of a model built from scratch.
        rms_norm_eps: epsilon inside the RMS norms.
        use_cache: whether `forward` returns a key/value cache by default.
        attention_dropout: dropout on attention probabilities while training.
        rope_theta: base of the rotary angles.
        rope_ntk_factor: factor s of dynamic NTK scaling beyond M (`rope_scaling.factor` in the release); None turns
            the scaling off.
        plora_rank: rank r of the partial LoRA on image positions.
        plora_alpha: its numerator; the branch is scaled by alpha / r.
        plora_dropout: dropout on the branch's input while training.
        plora_initializer_range: standard deviation of both branch matrices of a model built from scratch. The release
            starts neither at zero.
        image_token_id: id that marks a visual position in `input_ids`. It must lie inside the vocabulary and occur
            nowhere else; the default is `[UNUSED_TOKEN_129]` of the released tokenizer, which no template uses. The
            embedding of this id is never read: the visual features take its place.
        vision_batch: most views sent through the vision tower in one call; None sends all at once.
        bos_token_id: id of `<s>`.
        eos_token_id: id, or ids, that end a sequence.
        pad_token_id: id that fills padding; the release pads with `</s>`.
        tie_word_embeddings: must stay False, the release has separate matrices.
    """

    model_type = "ixc25"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": CLIPVisionConfig}
    keys_to_ignore_at_inference = ["past_key_values"]

    vision_config: Any = None
    vocab_size: int = 92544
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    hidden_act: str = "silu"
    max_position_embeddings: int = 24576
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    attention_dropout: float | int = 0.0
    rope_theta: float | int = 1_000_000.0
    rope_ntk_factor: float | int | None = 2.0
    plora_rank: int = 256
    plora_alpha: float | int = 256
    plora_dropout: float | int = 0.05
    plora_initializer_range: float = 0.02
    image_token_id: int = 92526
    vision_batch: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 2
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = CLIPVisionConfig(**(self.vision_config or RELEASED_VISION))
        super().__post_init__(**kwargs)

    @property
    def tile_size(self) -> int:
        """Side of one view (global view or tile) in pixels."""
        return self.vision_config.image_size

    @property
    def patches_per_side(self) -> int:
        """Vision-tower patches along one side of a view."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def merged_per_side(self) -> int:
        """Visual tokens along one side of a view, after the 2x2 merge."""
        return self.patches_per_side // 2

    @property
    def head_dim(self) -> int:
        """Width d of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def validate_architecture(self) -> None:
        """Reject sizes that do not fit together, naming the option and its value."""
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2 or self.head_dim < 4:
            raise ValueError(
                f"hidden_size={self.hidden_size} over num_attention_heads={self.num_attention_heads} must give an even "
                f"head width of at least 4"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        vision = self.vision_config
        if vision.image_size % (2 * vision.patch_size):
            raise ValueError(
                f"vision_config.image_size={vision.image_size} must be a multiple of twice "
                f"vision_config.patch_size={vision.patch_size}, because patches are merged 2x2"
            )
        if not 0 <= self.image_token_id < self.vocab_size:
            raise ValueError(
                f"image_token_id={self.image_token_id} lies outside the vocabulary of vocab_size={self.vocab_size}; "
                f"choose an id that the tokenizer never produces"
            )
        if self.vision_batch is not None and self.vision_batch < 1:
            raise ValueError(f"vision_batch={self.vision_batch} must be at least 1, or null for no limit")
        if self.tie_word_embeddings:
            raise ValueError("tie_word_embeddings=True is not supported: IXC-2.5 has a separate output matrix")
