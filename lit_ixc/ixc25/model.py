"""IXC-2.5 as transformers models: the backbone, and the backbone with its language-model head.

Shapes: B batch, T tokens, H width, I images of the whole batch, V their views (one global view and h*w tiles each),
N their visual tokens, t the side of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from lit_ixc.ixc25.configuration import IXC25Config
from lit_ixc.ixc25.language import InternLM2, PLoRALinear
from lit_ixc.ixc25.vision import VisionEncoder, visual_sequences


class IXC25Model(PreTrainedModel):
    """IXC-2.5 without its language-model head. The state dict has the released parameter names."""

    config: IXC25Config
    config_class = IXC25Config
    main_input_name = "input_ids"
    input_modalities = ("text", "image")
    supports_gradient_checkpointing = True
    _no_split_modules = ["InternLM2DecoderLayer", "CLIPEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _keys_to_ignore_on_load_unexpected = [r"^output\."]  # a backbone may be read from a model with its head
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: IXC25Config) -> None:
        super().__init__(config)
        visual_width = 4 * config.vision_config.hidden_size
        self.plora_glb_GN = nn.Parameter(torch.empty(1, 1, visual_width))  # between global view and tiles
        self.plora_sub_GN = nn.Parameter(torch.empty(1, 1, 1, visual_width))  # at the end of every row
        self.model = InternLM2(config)
        self.vit = VisionEncoder(config.vision_config)
        self.vision_proj = nn.Sequential(
            nn.Linear(visual_width, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PLoRALinear):
            init.normal_(module.Plora_A.weight, std=self.config.plora_initializer_range)
            init.normal_(module.Plora_B.weight, std=self.config.plora_initializer_range)
        elif isinstance(module, IXC25Model):
            init.normal_(module.plora_glb_GN, std=self.config.initializer_range)
            init.normal_(module.plora_sub_GN, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.tok_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.tok_embeddings = value

    def image_features(self, pixel_values: Tensor, image_grid: Tensor) -> list[Tensor]:
        """Encode images to the vectors that stand at their visual positions.

        Args:
            pixel_values: (V, 3, t, t) normalised views: per image its global view, then its tiles row-major.
            image_grid: (I, 2) rows and columns of tiles of each image.

        Returns:
            I tensors (N_i, H), see `visual_token_count`.

        Raises:
            ValueError: the number of views does not fit the grid.
        """
        grid = [(int(h), int(w)) for h, w in image_grid.tolist()]
        batches = pixel_values.split(self.config.vision_batch or pixel_values.shape[0])
        return self._project(torch.cat([self.vit(batch) for batch in batches]), grid)

    def _project(self, patches: Tensor, grid: list[tuple[int, int]]) -> list[Tensor]:
        """Patch features (V, p*p, C) of all views to one (N_i, H) tensor per image."""
        patches = patches.to(self.plora_sub_GN.dtype)
        sequences = visual_sequences(patches, grid, self.plora_sub_GN.flatten(), self.plora_glb_GN.flatten())
        lengths = [len(sequence) for sequence in sequences]
        return list(self.vision_proj(torch.cat(sequences)).split(lengths))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_rows: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the backbone.

        Args:
            input_ids: (B, T); visual positions hold `config.image_token_id`. Give these or `inputs_embeds`.
            attention_mask: (B, S) with 1 at real tokens, S = cached + T; or (B, 1, T, S) bool, True = attends.
            position_ids: (B, T), any values. Without them: counted from the cache's length, padding included.
            past_key_values: cache to read and extend.
            inputs_embeds: (B, T, H) instead of `input_ids`.
            pixel_values: (V, 3, t, t), see `image_features`.
            image_grid: (I, 2), see `image_features`.
            image_mask: (B, T) bool, True at visual positions, in the order of the images. Without it: where
                `input_ids` equals `image_token_id`; nowhere in a decoding step.
            image_embeds: (N, H) results of `image_features`, concatenated, instead of `pixel_values`.
            image_rows: (N,) the indices of `image_mask` in the flattened (B*T) tokens, instead of it: finding them on a
                GPU makes the host wait.
            use_cache: whether to return a cache; `config.use_cache` decides without it, never while training.
            output_hidden_states: whether to return L + 1 hidden states, the last one after the final norm.
            kwargs: handed to the attention function.

        Returns:
            `last_hidden_state` (B, T, H) after the final norm, the cache, and the hidden states if asked for.

        Raises:
            ValueError: inputs that exclude or need each other, or visual positions and features of different number.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if pixel_values is not None:
            if image_grid is None or image_embeds is not None:
                raise ValueError("pixel_values needs image_grid and excludes image_embeds")
            image_embeds = torch.cat(self.image_features(pixel_values, image_grid))
        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        embeddings = self.model.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if image_rows is None:
            if image_mask is None and input_ids is not None and (image_embeds is not None or past_length == 0):
                image_mask = input_ids == self.config.image_token_id
            image_rows = _true_rows(image_mask, embeddings.device)
        if image_embeds is not None:
            embeddings = _place(embeddings, image_embeds, image_rows)
        elif len(image_rows) and inputs_embeds is None:
            raise ValueError(
                f"{len(image_rows)} visual positions (image_token_id={self.config.image_token_id} or image_mask), but "
                f"neither pixel_values nor image_embeds"
            )
        elif self.training:
            embeddings = self._tie_idle_vision(embeddings)

        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            length = embeddings.shape[1]
            position_ids = past_length + torch.arange(length, device=embeddings.device)[None]
        states = self.model(embeddings, attention_mask, position_ids, past_key_values, image_rows, **kwargs)
        return BaseModelOutputWithPast(
            last_hidden_state=states[-1],
            past_key_values=past_key_values,
            hidden_states=states if output_hidden_states else None,
        )

    def _tie_idle_vision(self, embeddings: Tensor) -> Tensor:
        """Give trainable vision parameters a zero gradient in a batch without images.

        Data-parallel training waits for a gradient of every trainable parameter on every rank.
        """
        vision = self.config.vision_config
        if any(parameter.requires_grad for parameter in self.vit.parameters()):
            t = vision.image_size
            patches = self.vit(embeddings.new_zeros(2, vision.num_channels, t, t))
        elif any(p.requires_grad for p in (self.plora_glb_GN, self.plora_sub_GN, *self.vision_proj.parameters())):
            patches = embeddings.new_zeros(2, self.config.patches_per_side**2, vision.hidden_size)
        else:
            return embeddings
        return embeddings + 0.0 * self._project(patches, [(1, 1)])[0].sum()


def _true_rows(mask: Tensor | None, device: torch.device) -> Tensor:
    """Indices (N,) of the True entries of a flattened mask; empty without a mask."""
    if mask is None:
        return torch.empty(0, dtype=torch.long, device=device)
    return mask.flatten().nonzero().squeeze(1)


def _place(embeddings: Tensor, image_embeds: Tensor, image_rows: Tensor) -> Tensor:
    """Put the visual features (N, H) at the rows (N,) of the embeddings (B, T, H)."""
    if len(image_rows) != len(image_embeds):
        raise ValueError(
            f"{len(image_rows)} visual positions, but the images give {len(image_embeds)} visual tokens; a prompt must "
            f"hold visual_token_count(h, w) placeholders for each image, and truncation must not cut into them"
        )
    flat = embeddings.flatten(0, 1)  # (B*T, H)
    return flat.index_copy(0, image_rows, image_embeds.to(embeddings.dtype)).view_as(embeddings)


class IXC25ForConditionalGeneration(IXC25Model, GenerationMixin):
    """IXC-2.5 with its language-model head `output`."""

    def __init__(self, config: IXC25Config) -> None:
        super().__init__(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.output

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.output = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the backbone and the head.

        All arguments are those of `IXC25Model.forward`, and two more.

        Args:
            labels: (B, T) target ids, -100 where none. Shifted here: position i predicts labels[:, i + 1].
            logits_to_keep: last positions to compute logits for, 0 for all; or a tensor of position indices.

        Returns:
            fp32 `logits` (B, T or fewer, vocabulary) and, with labels, `loss`: the mean cross-entropy over the labels.

        Raises:
            ValueError: labels with `logits_to_keep`; and as in `IXC25Model.forward`.
        """
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("labels need the logits of all positions: leave logits_to_keep at 0")
        backbone = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            image_grid=image_grid,
            image_mask=image_mask,
            image_embeds=image_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.output(backbone.last_hidden_state[:, kept]).float()
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=backbone.past_key_values,
            hidden_states=backbone.hidden_states,
        )

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat each prompt for its samples or beams; its images are encoded once."""
        pixel_values = model_kwargs.pop("pixel_values", None)
        image_grid = model_kwargs.pop("image_grid", None)
        image_embeds = model_kwargs.pop("image_embeds", None)
        if expand_size > 1 and pixel_values is not None:
            image_embeds = torch.cat(self.image_features(pixel_values, image_grid))
            pixel_values = image_grid = None
        if expand_size > 1 and image_embeds is not None:
            image_mask = model_kwargs.get("image_mask")
            if image_mask is None and input_ids is not None:
                image_mask = input_ids == self.config.image_token_id
            if image_mask is None:
                raise ValueError("generating from inputs_embeds with images needs image_mask")
            rows = image_embeds.split(image_mask.sum(dim=1).tolist())
            image_embeds = torch.cat([row for row in rows for _ in range(expand_size)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        images = {"pixel_values": pixel_values, "image_grid": image_grid, "image_embeds": image_embeds}
        return input_ids, model_kwargs | {name: value for name, value in images.items() if value is not None}

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Images enter with the prompt only; without a cache every step is a prompt."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        if not kwargs.get("is_first_iteration", False) and kwargs.get("use_cache", True):
            for name in ("pixel_values", "image_grid", "image_embeds", "image_mask"):
                inputs.pop(name, None)
        elif inputs.get("image_mask") is not None and inputs["input_ids"] is not None:
            length = inputs["input_ids"].shape[1]  # fewer than the mask after a cached part, more without a cache
            mask = inputs["image_mask"][:, -length:]
            inputs["image_mask"] = nn.functional.pad(mask, (0, length - mask.shape[1]))
        return inputs
