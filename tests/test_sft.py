"""The supervised loss on prefix trees, and the exact match against a real greedy decode."""

from __future__ import annotations

import pytest
import torch

from lit_ixc.backbone import BackboneSource
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration, IXC25Model
from lit_ixc.layout import collate
from lit_ixc.losses import sft_loss
from lit_ixc.sft import SFTModule, exact_match
from tests.trees import IMAGE_TOKEN, comparison, media, random_comparison, separately, sequence


class Tiny(BackboneSource):
    def load(self, lm_head: bool) -> IXC25Model:
        return build(tiny_config(), seed=0)


@pytest.fixture(scope="module")
def module() -> SFTModule:
    made = SFTModule(Tiny())
    made.configure_model()
    return made.eval()


def model_of(module: SFTModule) -> IXC25ForConditionalGeneration:
    assert isinstance(module.model, IXC25ForConditionalGeneration)
    return module.model


def test_loss_is_the_shifted_cross_entropy_of_the_model(module: SFTModule) -> None:
    item = comparison([10, 11], [[20, 21]], images=media([(1, 1)]))
    one = item.sequences[0]
    with torch.no_grad():
        targets = module.targets(collate([item], 2))
        labels = torch.tensor([[token if used else -100 for token, used in zip(one.ids, one.loss, strict=True)]])
        expected = model_of(module)(torch.tensor([one.ids]), labels=labels, **item.media.tensors).loss
    torch.testing.assert_close(sft_loss(targets.logprobs, targets.weights), expected, atol=1e-5, rtol=1e-5)
    assert len(targets.logprobs) == 4  # 20 21 4 2; the reward token is no target


def test_answers_in_one_tree_have_the_loss_of_separate_rows(module: SFTModule) -> None:
    """Shared beginnings of answers count once for each answer."""
    item = random_comparison(seed=5, responses=3, prompt=3, shared=2, longest=4, images=1)
    with torch.no_grad():
        tree = module.targets(collate([item], 2))
        rows = module.targets(collate(separately(item), 2))
    assert tree.weights.sum() == rows.weights.sum() == len(rows.logprobs)
    torch.testing.assert_close(
        sft_loss(tree.logprobs, tree.weights), sft_loss(rows.logprobs, rows.weights), atol=1e-5, rtol=1e-5
    )


def test_exact_match_is_what_greedy_decoding_reproduces(module: SFTModule) -> None:
    prompt = [10, 11, 12]
    images = media([(1, 1)])
    ids = torch.tensor([[IMAGE_TOKEN] * sum(images.lengths) + prompt])
    with torch.no_grad():
        decoded = (
            model_of(module)
            .generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=3,
                do_sample=False,
                eos_token_id=None,
                **images.tensors,
            )[0, ids.shape[1] :]
            .tolist()
        )
    right = sequence(prompt, decoded, visual=sum(images.lengths))
    right = right._replace(loss=[index < len(right.ids) - 3 and used for index, used in enumerate(right.loss)])
    wrong = right._replace(ids=[*right.ids[:-4], (decoded[-1] + 1) % 300, *right.ids[-3:]])
    item = comparison(prompt, [decoded, decoded], images=images)._replace(sequences=[right, wrong])
    batch = collate([item], 2)
    with torch.no_grad():
        match, owner = exact_match(module.targets(batch), batch, short_answer_tokens=16)
        none, _ = exact_match(module.targets(batch), batch, short_answer_tokens=2)
    assert match.tolist() == [1.0, 0.0] and owner.tolist() == [0, 0]
    assert none.tolist() == []  # answers of three tokens are not short


def test_only_the_last_answer_of_a_dialogue_is_matched(module: SFTModule) -> None:
    """Earlier assistant turns stand in the prompt: they have a loss, but no part in the match."""
    item = comparison([10, 20, 21, 11], [[22]])
    dialogue = item.sequences[0]._replace(loss=[False, True, True, False, True, True, True, False])
    batch = collate([item._replace(sequences=[dialogue])], 2)
    with torch.no_grad():
        targets = module.targets(batch)
    assert targets.response.tolist() == [False, False, True, True, True]
    everything_right = targets._replace(correct=torch.tensor([False, False, True, True, True]))
    assert exact_match(everything_right, batch, 16)[0].tolist() == [1.0]
