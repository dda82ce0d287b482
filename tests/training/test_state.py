"""What has a state that decides the next step is restored, and complains about what does not fit."""

import importlib
import inspect
import pkgutil

import pytest

import xtts_extend
from xtts_extend.errors import CheckpointError
from xtts_extend.run.position import Position

#: Each class with a state, and how one that has done something is made. A new one belongs here, and into run_record.
STATEFUL = {
    Position: lambda: Position(step=7, epoch=1, batch=3, train_loss_sum=1.5, train_loss_count=3, failed_updates=1),
}


def test_every_stateful_class_has_a_case():
    modules = [
        importlib.import_module(module.name) for module in pkgutil.walk_packages(xtts_extend.__path__, "xtts_extend.")
    ]
    found = {
        thing
        for module in modules
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and thing.__module__.startswith("xtts_extend.")
        and {"state_dict", "load_state_dict"} <= vars(thing).keys()
    }
    assert found == set(STATEFUL)


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_state_goes_there_and_back(kind):
    original = STATEFUL[kind]()
    other = kind()
    assert other != original
    other.load_state_dict(original.state_dict())
    assert other == original


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_missing_or_left_over_key_raises(kind):
    state = STATEFUL[kind]().state_dict()
    for key in state:
        with pytest.raises(CheckpointError, match=f"1 missing: {key}"):
            kind().load_state_dict({name: value for name, value in state.items() if name != key})
    with pytest.raises(CheckpointError, match="1 left over: other"):
        kind().load_state_dict({**state, "other": 1})
