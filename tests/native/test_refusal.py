"""Models that cannot run prefix trees say why, and up to what length the others can."""

from typing import Any

import pytest
import torch
from native.miniatures import FAMILIES, miniature
from torch import nn
from transformers import AutoConfig, AutoModel, LlamaModel, PreTrainedModel

from lit_ixc.native import NativeFamily, load
from lit_ixc.native.refusal import reach
from lit_ixc.records import UserError

FAMILY = NativeFamily()
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
TINY |= {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 4}


def built(model_type: str, **values: Any) -> PreTrainedModel:
    """A model without weights."""
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.for_model(model_type, **values))


@pytest.mark.parametrize("lm_head", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_attention_is_not_refused(family: str, lm_head: bool) -> None:
    model, _ = miniature(family, lm_head=lm_head)
    assert FAMILY.refusal(model) is None and FAMILY.longest_tree(model) is None


@pytest.mark.parametrize(
    ("model_type", "values", "reason"),
    [
        ("t5", {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32}, "an encoder"),
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 32}, "state from token to token"),
        ("paligemma", {"text_config": {"model_type": "gemma", **TINY}, "vision_config": VISION}, "bidirectional"),
        ("gemma3", {"text_config": TINY, "vision_config": VISION}, "bidirectional"),
        ("gemma3_text", {**TINY, "use_bidirectional_attention": True}, "bidirectional"),
        ("llama", {**TINY, "is_causal": False}, "not causal"),
        ("qwen3_next", {**TINY, "layer_types": ["linear_attention", "full_attention"]}, "state|no full attention"),
        ("bloom", {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32}, "takes no position_ids"),
    ],
)
def test_the_reason_is_said(model_type: str, values: dict[str, Any], reason: str) -> None:
    refused = FAMILY.refusal(built(model_type, **values))
    assert refused is not None
    assert any(word in refused for word in reason.split("|")), refused


def test_layers_with_a_window_are_full_up_to_the_window() -> None:
    sliding = built("gemma3_text", **TINY, sliding_window=48, layer_types=["sliding_attention", "full_attention"])
    assert FAMILY.refusal(sliding) is None and FAMILY.longest_tree(sliding) == 48
    assert FAMILY.longest_tree(built("mistral", **TINY, sliding_window=64)) == 64
    assert FAMILY.longest_tree(built("mistral", **TINY, sliding_window=None)) is None
    # Qwen2 has a window in its configuration that it does not use unless it is told to
    assert FAMILY.longest_tree(built("qwen2", **TINY, sliding_window=64)) is None
    used = built("qwen2", **TINY, sliding_window=64, use_sliding_window=True, max_window_layers=1)
    assert FAMILY.longest_tree(used) == 64


def test_rotary_angles_that_depend_on_the_batch() -> None:
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = built("llama", **TINY, max_position_embeddings=128, rope_parameters=scaled)
    assert FAMILY.refusal(model) is None and FAMILY.longest_tree(model) == 128
    long = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    lengths = {"max_position_embeddings": 512, "original_max_position_embeddings": 96}
    config = AutoConfig.for_model("phi3", **TINY, **lengths, rope_parameters=long)
    assert reach(config) == 96
    with torch.device("meta"):
        assert FAMILY.refusal(AutoModel.from_config(config)) is None


class OwnAttention(LlamaModel):
    """The first layer computes its attention by itself."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layers[0].self_attn.forward = lambda hidden_states, **keywords: (hidden_states, None)


class NoKeywords(LlamaModel):
    """Its forward pass takes the usual arguments alone."""

    def forward(self, inputs_embeds: Any = None, position_ids: Any = None, attention_mask: Any = None) -> Any:
        raise NotImplementedError


class Dropped(nn.Module):
    """A layer that loses keywords on the way to its attention."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Any, tree: Any = None, **keywords: Any) -> Any:
        return self.layer(hidden_states, **keywords)


class LostTree(LlamaModel):
    """No layer hears of the tree."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Dropped(layer) for layer in self.layers)


class Failing(LlamaModel):
    def forward(self, inputs_embeds: Any = None, position_ids: Any = None, **keywords: Any) -> Any:
        raise RuntimeError("needs audio")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (OwnAttention, "1 of its 2 layers compute their attention by themselves"),
        (LostTree, "2 of its 2 layers compute their attention by themselves"),
        (NoKeywords, "hands no keywords on"),
        (Failing, r"fails on a trial run without weights (RuntimeError: needs audio)"),
    ],
)
def test_the_trial_counts_layers(kind: type[LlamaModel], reason: str) -> None:
    refused = FAMILY.refusal(kind._from_config(AutoConfig.for_model("llama", **TINY)))
    assert refused is not None and reason in refused


def test_the_trial_leaves_the_model_alone() -> None:
    model, _ = miniature("qwen3_vl")
    before = [(m.config._attn_implementation, m.training) for m in model.modules() if isinstance(m, PreTrainedModel)]
    FAMILY.refusal(model)
    after = [(m.config._attn_implementation, m.training) for m in model.modules() if isinstance(m, PreTrainedModel)]
    assert before == after and {p.device.type for p in model.parameters()} == {"cpu"}


def test_separate_gives_a_refused_model_its_own_mask() -> None:
    """Gemma3: tokens of an image see each other in both directions, so the first image token sees the last patch."""
    sizes = {"mm_tokens_per_image": 4, "image_token_id": 31, "boi_token_id": 30, "eoi_token_id": 29}
    text = {**TINY, "sliding_window": 16, "initializer_range": 0.3}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {**VISION, "vision_use_head": False}}
    model = load({**config, **sizes}, lm_head=False)
    model.multi_modal_projector.mm_input_projection_weight.data.normal_()  # it starts at zero
    ids = torch.tensor([[5, 31, 31, 31, 31, 6]])
    pixels = torch.randn(1, 3, 16, 16)
    other = pixels.clone()
    other[..., 12:, 12:] += 9
    with torch.no_grad():
        one, changed = (
            FAMILY.separate(model, ids, torch.ones_like(ids), {"pixel_values": p, "expansion": ids[0]})
            for p in (pixels, other)
        )
    assert torch.equal(one[0, 0], changed[0, 0])  # the text before it does not
    assert (one - changed)[0, 1].abs().max() > 1e-3


def test_separate_refuses_prompts_that_see_later_tokens() -> None:
    model = built("paligemma", text_config={"model_type": "gemma", **TINY}, vision_config=VISION)
    with pytest.raises(UserError, match="PaliGemmaModel: tokens see later ones"):
        FAMILY.separate(model, torch.tensor([[5]]), torch.tensor([[1]]), {})


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])  # rotary angles, and learned positions
def test_separate_does_not_depend_on_padding(model_type: str) -> None:
    """Two sequences of 3 and 5 tokens, padded at either side: the same hidden states."""
    sizes = {**TINY, "n_embd": 16, "n_layer": 2, "n_head": 2} if model_type == "gpt2" else TINY
    model = load({"model_type": model_type, **sizes, "initializer_range": 0.3}, lm_head=False)
    one, other = torch.tensor([5, 6, 7]), torch.tensor([9, 8, 7, 6, 5])
    right = torch.stack([torch.cat([one, torch.zeros(2, dtype=torch.long)]), other])
    left = torch.stack([torch.cat([torch.zeros(2, dtype=torch.long), one]), other])
    with torch.no_grad():
        a = FAMILY.separate(model, right, torch.tensor([[1, 1, 1, 0, 0], [1] * 5]), {})
        b = FAMILY.separate(model, left, torch.tensor([[0, 0, 1, 1, 1], [1] * 5]), {})
        alone = FAMILY.separate(model, one[None], torch.ones(1, 3, dtype=torch.long), {})
    torch.testing.assert_close(a[0, :3], b[0, 2:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a[0, :3], alone[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a[1], b[1], rtol=1e-5, atol=1e-5)
