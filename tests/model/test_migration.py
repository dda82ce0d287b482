"""Migration of rows and moments to another vocabulary."""

import torch

from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.model.migration import Migration, nearest_rows

#: A vocabulary in which id 3 has no token, as in released vocabularies.
BEFORE = {"a": 0, "b": 1, "c": 2, "ሀ": 4, "ለ": 5}


def migration(now, frozen=frozenset("abc"), spellings=None):
    return Migration.between(BEFORE, now, 6, frozenset(frozen), init="romanized", spellings=spellings or {}, seed=0)


def table(rows):
    return torch.arange(rows, dtype=torch.float32)[:, None] * torch.tensor([1.0, 10.0])


def state(rows):
    weights = {f"gpt.{name}": table(rows) if name.endswith("weight") else table(rows)[:, 0] for name in TOKEN_TENSORS}
    return {**weights, "gpt.final_norm.weight": torch.ones(2)}


def test_the_same_vocabulary_changes_nothing():
    same = migration(BEFORE)
    assert torch.equal(same.index, torch.arange(6))
    assert (same.added, same.base_rows) == (0, 3)
    before = state(6)
    for key, tensor in same.weights(before, "gpt.").items():
        assert torch.equal(tensor, before[key])


def test_rows_of_added_removed_and_moved_tokens():
    now = {"a": 0, "c": 1, "b": 2, "ለ": 3, "መ": 4, "ሀ": 5}
    migrated = migration(now, spellings={"መ": ["a", "ለ"]})
    assert torch.equal(migrated.index, torch.tensor([0, 2, 1, 5, 6, 4]))
    weights = migrated.weights(state(6), "gpt.")
    assert torch.equal(weights["gpt.text_embedding.weight"][:, 0], torch.tensor([0.0, 2.0, 1.0, 5.0, 2.5, 4.0]))
    assert torch.equal(weights["gpt.text_head.bias"], torch.tensor([0.0, 2.0, 1.0, 5.0, 2.5, 4.0]))
    assert torch.equal(migrated.moments(table(6) + 7)[:, 0], torch.tensor([7.0, 9.0, 8.0, 12.0, 0.0, 11.0]))
    assert migrated.base_rows == 3


def test_moments_of_frozen_rows_are_zero():
    now = {"a": 0, "b": 1, "c": 2, "ለ": 4, "ሀ": 5}
    moments = migration(now).moments(torch.tensor([[1.0], [2.0], [3.0]]))
    # Id 3 was the first trained row. It has no token and keeps its position.
    assert torch.equal(moments[:, 0], torch.tensor([0.0, 0.0, 0.0, 1.0, 3.0, 2.0]))


def test_a_removed_old_token_leaves_fewer_frozen_rows():
    assert migration({"a": 0, "c": 1, "ሀ": 2}).base_rows == 2


def test_base_rows_are_zero_if_frozen_tokens_do_not_come_first():
    assert migration({"a": 0, "ሀ": 1, "b": 2, "c": 3, "ለ": 4}).base_rows == 0
    assert migration({"a": 0, "b": 1, "c": 2, "መ": 3}).base_rows == 3


def test_nearest_rows():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(50, 16, generator=generator)
    order = torch.randperm(50, generator=generator)
    rows = torch.cat([3 * base[order] + 0.1, torch.randn(4, 16, generator=generator)])
    nearest, cosines = nearest_rows(rows, base)
    assert torch.equal(nearest[:50], order)
    assert cosines[:50].min() > 0.95
    assert cosines[50:].max() < 0.85
