"""Classes whose state decides the next step restore it, and refuse missing or unknown keys."""

import importlib
import inspect
import pkgutil

import pytest

import xtts_extend
from xtts_extend.errors import CheckpointError
from xtts_extend.run.position import Position

#: Each class with a state, and a function that makes a non-default instance. Add new ones here and to `run_record`.
STATEFUL = {
    Position: lambda: Position(step=7, epoch=1, batch=3, train_loss_sum=1.5, train_loss_count=3, failed_updates=1),
}


def test_every_stateful_class_has_a_case():
    modules = [
        importlib.import_module(module.name) for module in pkgutil.walk_packages(xtts_extend.__path__, "xtts_extend.")
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__.startswith("xtts_extend.")
        and {"state_dict", "load_state_dict"} <= vars(value).keys()
    }
    assert found == set(STATEFUL)


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_state_survives_a_round_trip(kind):
    original = STATEFUL[kind]()
    other = kind()
    assert other != original
    other.load_state_dict(original.state_dict())
    assert other == original


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_missing_or_unknown_key_raises(kind):
    state = STATEFUL[kind]().state_dict()
    for key in state:
        with pytest.raises(CheckpointError, match=f"1 missing: {key}"):
            kind().load_state_dict({name: value for name, value in state.items() if name != key})
    with pytest.raises(CheckpointError, match="1 unexpected: other"):
        kind().load_state_dict({**state, "other": 1})
