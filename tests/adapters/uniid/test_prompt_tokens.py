"""A person's words: their norms, and their place in the prompt."""

from __future__ import annotations

import pytest
import torch
from likeness.adapters.prompt_tokens import column_means, insert_tokens, match_norms, token_norms

SPLIT = 4  # of 10 channels


@pytest.fixture
def tokens():
    return torch.randn(3, 10, generator=torch.Generator().manual_seed(0))


def prompt(positions: int, rows: int = 2) -> torch.Tensor:
    """Every value tells its row, position and channel."""
    counted = torch.arange(rows * positions * 10, dtype=torch.float32)
    return counted.reshape(rows, positions, 10)


def test_both_parts_get_their_norms(tokens):
    norms = torch.tensor([[1.0, 2.0], [3.0, 4.0], [28.0, 36.0]])
    matched = match_norms(tokens, norms, SPLIT)
    torch.testing.assert_close(token_norms(matched, SPLIT), norms)
    for part in (slice(0, SPLIT), slice(SPLIT, None)):
        directions = torch.nn.functional.cosine_similarity(matched[:, part], tokens[:, part])
        torch.testing.assert_close(directions, torch.ones(3))
    batch = match_norms(torch.stack([tokens, 7 * tokens]), norms, SPLIT)
    torch.testing.assert_close(batch, torch.stack([matched, matched]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_part_of_zeros_stays_zero(tokens, dtype):
    tokens = tokens.to(dtype)
    tokens[1, SPLIT:] = 0
    matched = match_norms(tokens, torch.full((3, 2), 30.0), SPLIT)
    assert matched.dtype == dtype and torch.isfinite(matched).all()
    assert not matched[1, SPLIT:].any() and matched[1, :SPLIT].any()


def test_norms_of_another_adapter(tokens):
    with pytest.raises(
        ValueError, match=r"name norms are \(4, 2\), but a person has 3 text tokens.*Compute them again"
    ):
        match_norms(tokens, torch.ones(4, 2), SPLIT)


def test_column_means_of_names_of_different_lengths():
    table = torch.tensor([[0.0, 1.0], [10.0, 20.0], [4.0, 8.0], [7.0, 7.0]])
    means = column_means([[1, 2, 3, 0], [2], [0, 3]], table, 3)
    expected = [table[[1, 2, 0]].mean(0), table[[2, 3]].mean(0), table[3]]
    assert torch.equal(means, torch.stack(expected))


def test_names_that_are_too_short():
    with pytest.raises(ValueError, match="no name of 3 or more tokens, but this UniID has 3 text tokens.*longer names"):
        column_means([[1, 2], [2]], torch.zeros(3, 2), 3)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_words_stand_behind_the_first_position(tokens, chunks):
    embeds = prompt(77 * chunks)
    got = insert_tokens(embeds, tokens)
    assert got.shape == embeds.shape
    assert torch.equal(got[:, 0], embeds[:, 0])
    assert torch.equal(got[:, 1:4], tokens.expand(2, -1, -1))
    assert torch.equal(got[:, 4:77], embeds[:, 1:74])  # 74 to 76 fell off
    assert torch.equal(got[:, 77:], embeds[:, 77:])
    assert torch.equal(embeds, prompt(77 * chunks))


def test_each_row_may_have_its_own_words(tokens):
    own = torch.stack([tokens, -tokens])
    got = insert_tokens(prompt(77), own)
    assert torch.equal(got[:, 1:4], own)
    for row in range(2):
        assert torch.equal(got[row : row + 1], insert_tokens(prompt(77)[row : row + 1], own[row]))


def test_words_of_several_people_and_other_lengths(tokens):
    both = torch.cat([tokens, 2 * tokens])
    got = insert_tokens(prompt(20), both)
    assert torch.equal(got[0, 1:7], both) and torch.equal(got[0, 7:], prompt(20)[0, 1:14])
    assert torch.equal(insert_tokens(prompt(77), tokens[:0]), prompt(77))
    with pytest.raises(ValueError, match="6 text tokens do not fit into a prompt of 6 positions"):
        insert_tokens(prompt(6), both)


def test_the_prompts_type_is_kept(tokens):
    assert insert_tokens(prompt(77).half(), tokens).dtype == torch.float16


def test_a_prompt_of_another_base_model(tokens):
    with pytest.raises(ValueError, match="text tokens are 10 wide and the prompt 768.*CLIP of an SDXL model"):
        insert_tokens(torch.zeros(1, 77, 768), tokens)
