"""Comparison of vocabularies token by token."""

from xtts_extend.text.change import compare_tokens


def test_equal_vocabularies():
    change = compare_tokens({"a": 0, "b": 1}, {"b": 1, "a": 0})
    assert not change


def test_differences_are_listed_in_the_order_of_ids():
    before = {"a": 0, "b": 1, "c": 2, "z": 3}
    change = compare_tokens(before, {"a": 0, "c": 1, "y": 2, "x": 3})
    assert (change.added, change.removed, change.moved) == (["y", "x"], ["b", "z"], ["c"])
    assert change.describe() == "  2 tokens added: y, x\n  2 tokens removed: b, z\n  1 token moved to a different id: c"


def test_only_ten_tokens_are_listed():
    change = compare_tokens({}, {f"t{number}": number for number in range(12)})
    assert change.describe().splitlines()[0].endswith("t8, t9, and 2 more")
    assert "0 tokens removed" in change.describe()
