"""InternLM2 with PLoRA: the language model of IXC-2.5 (architecture notes, section 4).

Shapes: B batch, T query tokens, S key tokens, H width, n query heads, m key/value heads, g = n/m, d = H/n,
N visual tokens of the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb, eager_attention_forward

from lit_ixc.ixc25.configuration import IXC25Config


class PLoRALinear(nn.Linear):
    """Bias-free linear layer with a low-rank branch that acts on image positions only.

    y = x W^T, plus (alpha / r) B(A(dropout(x))) in the rows of image tokens.

    peft wraps it as any linear layer and hands `image_rows` on. It tells its own parameters by `lora_` in their names,
    which the released names `Plora_A` and `Plora_B` contain: after wrapping they stay trainable, but they are not saved
    with the adapter. Freeze them, or save them beside it.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.Plora_A = nn.Linear(in_features, rank, bias=False)
        self.Plora_B = nn.Linear(rank, out_features, bias=False)
        self.plora_dropout = nn.Dropout(dropout)
        self.plora_scaling = alpha / rank

    def forward(self, x: Tensor, image_rows: Tensor | None = None) -> Tensor:
        """Apply the layer.

        Args:
            x: (B, T, in_features)
            image_rows: (N,) indices of the image tokens in the flattened (B*T) tokens; None or empty without images.

        Returns:
            (B, T, out_features)
        """
        y = super().forward(x)
        scaling = self.plora_scaling
        if image_rows is None or image_rows.numel() == 0:
            if not (self.training and self.Plora_A.weight.requires_grad):
                return y
            # As in the release: 0 times the first token keeps the branch in the graph, so that every data-parallel
            # rank has a gradient to reduce.
            image_rows, scaling = torch.zeros(1, dtype=torch.long, device=x.device), 0.0
        branch = self.Plora_B(self.Plora_A(self.plora_dropout(x.flatten(0, 1)[image_rows]))) * scaling
        # In place: y is a fresh result that the backward pass of the product does not read.
        y.view(-1, y.shape[-1]).index_add_(0, image_rows, branch.to(y.dtype))
        return y


def rotary_tables(
    position_ids: Tensor,
    key_length: Tensor,
    *,
    head_dim: int,
    theta: float,
    ntk_factor: float | None,
    max_positions: int,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, with dynamic NTK scaling per row.

    A row whose keys reach t > M positions uses theta' = theta * (s*t/M - (s - 1))^(d / (d-2)), any other plain theta.
    This is what the released code computes in a fresh process; its state from earlier, longer calls is not imitated.

    Args:
        position_ids: (B or 1, T)
        key_length: (B or 1,) length t of each row's own keys, so that a row does not depend on its batch mates.
        head_dim: d
        theta: base of the angles
        ntk_factor: s, or None for no scaling
        max_positions: M

    Returns:
        cosines and sines, each (B, T, d) fp32 in half-split order.
    """
    base = torch.full_like(key_length, theta, dtype=torch.float32)
    if ntk_factor is not None:
        ratio = ntk_factor * key_length.float() / max_positions - (ntk_factor - 1)
        base = base * ratio.clamp(min=1.0) ** (head_dim / (head_dim - 2))
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    inv_freq = 1.0 / base[:, None] ** exponents  # (B, d/2)
    angles = position_ids[..., None].float() * inv_freq[:, None]  # (B, T, d/2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    """Grouped-query attention with one `wqkv` matrix whose rows lie per group: g queries, one key, one value."""

    is_causal = True

    def __init__(self, config: IXC25Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        plora = (config.plora_rank, config.plora_alpha, config.plora_dropout)
        rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
        self.wqkv = PLoRALinear(config.hidden_size, rows, *plora)
        self.wo = PLoRALinear(config.hidden_size, config.hidden_size, *plora)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        image_rows: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend; hidden is (B, T, H), the result too. `kwargs` reach the attention function."""
        batch, length, width = hidden.shape
        groups = self.num_key_value_groups
        qkv = self.wqkv(hidden, image_rows).view(batch, length, self.num_key_value_heads, groups + 2, self.head_dim)
        query = qkv[..., :groups, :].reshape(batch, length, -1, self.head_dim).transpose(1, 2)  # (B, n, T, d)
        key = qkv[..., groups, :].transpose(1, 2)  # (B, m, T, d)
        value = qkv[..., groups + 1, :].transpose(1, 2)  # (B, m, T, d)
        cos, sin = (table.to(qkv.dtype) for table in rotary)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        mixed, _ = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )  # (B, T, n, d)
        return self.wo(mixed.reshape(batch, length, width), image_rows)


class FeedForward(nn.Module):
    """Gated feed-forward block: w2(act(w1 x) * w3 x)."""

    def __init__(self, config: IXC25Config) -> None:
        super().__init__()
        plora = (config.plora_rank, config.plora_alpha, config.plora_dropout)
        self.w1 = PLoRALinear(config.hidden_size, config.intermediate_size, *plora)
        self.w3 = PLoRALinear(config.hidden_size, config.intermediate_size, *plora)
        self.w2 = PLoRALinear(config.intermediate_size, config.hidden_size, *plora)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor, image_rows: Tensor | None) -> Tensor:
        """(B, T, H) to (B, T, H)."""
        gated = self.activation(self.w1(hidden, image_rows)) * self.w3(hidden, image_rows)
        return self.w2(gated, image_rows)


class InternLM2DecoderLayer(GradientCheckpointingLayer):
    """Pre-norm decoder layer; checkpointed while training when gradient checkpointing is on."""

    def __init__(self, config: IXC25Config, layer_idx: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer_idx)
        self.feed_forward = FeedForward(config)
        self.attention_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, *, image_rows: Tensor | None, **kwargs: Any) -> Tensor:
        """(B, T, H) to (B, T, H); `kwargs` are those of `Attention.forward`."""
        hidden = hidden + self.attention(self.attention_norm(hidden), image_rows=image_rows, **kwargs)
        return hidden + self.feed_forward(self.ffn_norm(hidden), image_rows)


class InternLM2(nn.Module):
    """Token embedding, decoder layers and final norm."""

    def __init__(self, config: IXC25Config) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(InternLM2DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: Cache | None,
        image_rows: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """Run the decoder.

        Args:
            embeddings: (B, T, H)
            attention_mask: (B, S) padding mask, or (B, 1, T, S) bool, True = attends; None is causal.
            position_ids: (B or 1, T)
            past_key_values: cache to read and extend
            image_rows: see `PLoRALinear.forward`
            kwargs: handed to the attention function

        Returns:
            L + 1 states (B, T, H): the embeddings, each layer's output, the last one after the final norm.
        """
        rotary = rotary_tables(
            position_ids,
            _key_length(position_ids, attention_mask),
            head_dim=self.config.head_dim,
            theta=self.config.rope_theta,
            ntk_factor=self.config.rope_ntk_factor,
            max_positions=self.config.max_position_embeddings,
        )
        mask = _decoder_mask(self.config, embeddings, attention_mask, past_key_values)
        states = [embeddings]
        for layer in self.layers:
            states.append(
                layer(
                    states[-1],
                    rotary=rotary,
                    attention_mask=mask,
                    past_key_values=past_key_values,
                    image_rows=image_rows,
                    **kwargs,
                )
            )
        return (*states[:-1], self.norm(states[-1]))


def _key_length(position_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Length of each row's own keys, (B or 1,): its largest position that is not padding, plus one."""
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        position_ids = position_ids.where(attention_mask[:, -position_ids.shape[1] :].bool(), 0)
    return position_ids.amax(dim=-1) + 1


def _decoder_mask(
    config: IXC25Config, embeddings: Tensor, attention_mask: Tensor | None, past_key_values: Cache | None
) -> Tensor | None:
    """The mask in the form that the configured attention function takes."""
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        if config._attn_implementation == "eager" and attention_mask.dtype == torch.bool:
            # Eager attention adds its mask to the scores; adding a boolean would not mask at all.
            lowest = torch.finfo(embeddings.dtype).min
            return torch.zeros_like(attention_mask, dtype=embeddings.dtype).masked_fill(~attention_mask, lowest)
        return attention_mask
    # Positions are left out on purpose: transformers would read restarting positions as packed sequences.
    return create_causal_mask(config, embeddings, attention_mask, past_key_values)
