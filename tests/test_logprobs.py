"""Log-probabilities of tokens in parts, and of the responses of a tree against separate rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lit_ixc.backbone import hidden_states
from lit_ixc.ixc25.miniature import build, tiny_config
from lit_ixc.ixc25.model import IXC25ForConditionalGeneration
from lit_ixc.layout import collate
from lit_ixc.logprobs import response_logprobs, token_logprobs
from tests.trees import (
    ALL_SHARED,
    EMPTY_PREFIX,
    MANY_IMAGES,
    Case,
    assert_equal_gradients,
    backward,
    comparison,
    separately,
)


class Kept(nn.Module):
    """A head of three tokens whose logits are 2x, x and 0; it remembers how many rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0], [1.0], [0.0]]))
        self.rows: list[int] = []

    def forward(self, states: Tensor) -> Tensor:
        self.rows.append(len(states))
        return states @ self.weight.T


def test_by_hand() -> None:
    logprobs, entropies = token_logprobs(torch.tensor([[0.0], [math.log(2)]]), Kept(), torch.tensor([2, 1]))
    # state 0: logits 0 0 0; state ln 2: weights 4 2 1, of 7
    assert entropies is None
    torch.testing.assert_close(logprobs, torch.tensor([-math.log(3), math.log(2 / 7)]))


def test_temperature_and_entropy_by_hand() -> None:
    logprobs, entropies = token_logprobs(
        torch.tensor([[2 * math.log(2)]]), Kept(), torch.tensor([0]), temperature=2.0, entropy=True
    )
    assert entropies is not None
    # logits 4 ln 2, 2 ln 2, 0 halved: again weights 4 2 1, of 7
    expected = math.log(7) - (4 * math.log(4) + 2 * math.log(2)) / 7
    torch.testing.assert_close(logprobs, torch.tensor([math.log(4 / 7)]))
    torch.testing.assert_close(entropies, torch.tensor([expected]))


@pytest.mark.parametrize("entropy", [False, True])
def test_parts_change_neither_values_nor_gradients(entropy: bool) -> None:
    head = nn.Linear(4, 9, bias=False)
    ids = torch.randint(9, (11,))
    found = []
    for chunk in (100, 3):
        states = torch.linspace(-1, 1, 44).view(11, 4).requires_grad_()
        head.weight.grad = None
        logprobs, entropies = token_logprobs(states, head, ids, 0.7, chunk, entropy)
        (logprobs.square().sum() + (entropies.pow(3).sum() if entropies is not None else 0)).backward()
        found.append((logprobs, entropies, states.grad, head.weight.grad))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)


def test_entropy_has_a_gradient_of_its_own() -> None:
    head = Kept()
    _, entropies = token_logprobs(torch.ones(1, 1), head, torch.tensor([0]), entropy=True)
    assert entropies is not None
    entropies.sum().backward()
    # d H / d z_i = -p_i (log p_i + H)
    p = torch.tensor([2.0, 1.0, 0.0]).softmax(-1)
    expected = -p * (p.log() - (p * p.log()).sum())
    torch.testing.assert_close(head.weight.grad, expected[:, None])


def test_logits_of_one_part_at_a_time() -> None:
    head = Kept()
    saved: list[int] = []
    states = torch.ones(10, 1, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logprobs, _ = token_logprobs(states, head, torch.zeros(10, dtype=torch.long), chunk=4)
    assert head.rows == [4, 4, 2]
    assert max(saved, default=0) <= 10  # nothing of (N, V) = 30 numbers
    logprobs.sum().backward()
    assert head.rows == [4, 4, 2, 2, 4, 4]  # made again, from the last part on


def test_no_tokens() -> None:
    logprobs, entropies = token_logprobs(
        torch.ones(0, 1, requires_grad=True), Kept(), torch.zeros(0, dtype=torch.long), entropy=True
    )
    assert logprobs.shape == (0,) and entropies is not None and entropies.shape == (0,)


def test_responses_by_hand() -> None:
    """Shared answer tokens count for both, the prompt's earlier answer and the reward token for none."""
    item = comparison([10, 20, 11], [[30, 31], [30, 32, 33]])
    dialogue = [
        one._replace(loss=[False, True, *one.loss[2:]])  # 20 is an earlier answer
        for one in item.sequences
    ]
    lone = comparison([12], [[34]])
    batch = collate([item._replace(sequences=dialogue), lone], 2)
    width = batch.input_ids.shape[1]
    # the logit of a token after the state in column c is c / 10 for every token of id 31 up, else 0
    hidden = torch.arange(width).float()[None, :, None].expand(2, width, 1) / 10
    head = nn.Linear(1, 40, bias=False)
    with torch.no_grad():
        head.weight.copy_((torch.arange(40) >= 31).float()[:, None])
    sums, tokens = response_logprobs(hidden, head, batch)
    # columns of tree 0: 10 20 11 30 | 31 4 2 R | 32 33 4 2 R, of tree 1: 12 34 | ...; with one sequence the prefix is
    # its prompt: 12 | 34 4 2 R
    norm = [math.log(31 + 9 * math.exp(c / 10)) for c in range(width)]
    first = [(2, 0), (3, 3), (4, 0), (5, 0)]  # 30 31 4 2: column of the parent, logit * 10
    second = [(2, 0), (3, 3), (8, 8), (9, 0), (10, 0)]  # 30 32 33 4 2
    alone = [(0, 0), (1, 0), (2, 0)]  # 34 after column 0, where the logit is 0 too
    of = lambda path: sum(logit / 10 - norm[column] for column, logit in path)  # noqa: E731
    assert tokens.tolist() == [[4, 5], [3, 0]]
    torch.testing.assert_close(sums, torch.tensor([[of(first), of(second)], [of(alone), 0.0]]))


@pytest.fixture(scope="module")
def model() -> IXC25ForConditionalGeneration:
    return build(tiny_config(), seed=0).eval()


@pytest.mark.parametrize("case", [EMPTY_PREFIX, ALL_SHARED, MANY_IMAGES])
def test_trees_equal_separate_rows(model: IXC25ForConditionalGeneration, case: Case) -> None:
    """Invariant 2: log-probabilities and gradients, to 1e-5."""
    items = case.items()
    whole = response_logprobs(hidden_states(model, batch := case.batch()), model.output, batch, chunk=7)
    factors = torch.linspace(-1, 1, whole.sums.numel()).view_as(whole.sums)
    found = backward(model, (whole.sums * factors).sum())

    rows = [collate([row], 2) for item in items for row in separately(item)]
    alone = [response_logprobs(hidden_states(model, row), model.output, row) for row in rows]
    sums = torch.cat([one.sums[0] for one in alone])
    torch.testing.assert_close(whole.sums[batch.exists], sums, atol=1e-5, rtol=1e-5)
    assert whole.tokens[batch.exists].tolist() == [one.tokens.item() for one in alone]
    assert not whole.sums[~batch.exists].any() and not whole.tokens[~batch.exists].any()
    assert_equal_gradients(found, backward(model, (sums * factors[batch.exists]).sum()))
