"""Known objects in a checkpoint are read as plain values; others are named in an error, and no code runs."""

import argparse
import builtins
import collections
import datetime
import decimal
import enum
import functools
import operator
import os
import pathlib
import subprocess
import sys
import time
import types
import typing
import zoneinfo

import numpy as np
import pytest
import torch

from xtts_extend.checkpoint.inspect import load_pickled
from xtts_extend.errors import CheckpointError

TOKYO = zoneinfo.ZoneInfo("Asia/Tokyo")
NOON = datetime.datetime(2024, 1, 2, 12, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("saved", "read"),
    [
        pytest.param(np.int64(17), 17, id="numpy integer"),
        pytest.param(np.uint8(255), 255, id="numpy byte"),
        pytest.param(np.array(17, ">i4")[()], 17, id="numpy integer, big endian"),
        pytest.param(np.float32(1.5), 1.5, id="numpy float"),
        pytest.param(np.float16(-0.5), -0.5, id="numpy half"),
        pytest.param(np.bool_(True), True, id="numpy bool"),
        pytest.param(np.str_("ሰላም"), "ሰላም", id="numpy text"),
        pytest.param(np.arange(6.0).reshape(2, 3), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], id="array"),
        pytest.param(np.asfortranarray([[0, 1], [2, 3]]), [[0, 1], [2, 3]], id="array by columns"),
        pytest.param(np.array([]), [], id="empty array"),
        pytest.param(np.array([1, "x"], dtype=object), [1, "x"], id="array of objects"),
        pytest.param(np.dtype("f4"), "f4", id="numpy type"),
        pytest.param(("MT19937", np.array([1, 2], np.uint32)), ("MT19937", [1, 2]), id="array in a tuple"),
        pytest.param(collections.defaultdict(dict, {1: {2: 3}}), {1: {2: 3}}, id="defaultdict"),
        pytest.param(collections.defaultdict(list, {"a": [1]}), {"a": [1]}, id="defaultdict of lists"),
        pytest.param(collections.defaultdict(None, {"a": 1}), {"a": 1}, id="defaultdict of nothing"),
        pytest.param(collections.OrderedDict(a=np.int64(1)), {"a": 1}, id="OrderedDict"),
        pytest.param(collections.Counter("aab"), {"a": 2, "b": 1}, id="Counter"),
        pytest.param(collections.deque([1.5, 2.5], maxlen=2), [1.5, 2.5], id="deque"),
        pytest.param({1, 2}, {1, 2}, id="set"),
        pytest.param(frozenset({1, 2}), frozenset({1, 2}), id="frozenset"),
        pytest.param(pathlib.PurePosixPath("/runs/a.wav"), "/runs/a.wav", id="path"),
        pytest.param(pathlib.PureWindowsPath("C:/runs/a.wav"), "C:\\runs\\a.wav", id="path on Windows"),
        pytest.param(datetime.date(2024, 1, 2), datetime.date(2024, 1, 2), id="date"),
        pytest.param(NOON, NOON, id="time"),
        pytest.param(zoneinfo.ZoneInfo("Europe/Paris"), "Europe/Paris", id="time zone"),
        pytest.param(NOON.replace(tzinfo=TOKYO), "2024-01-02T12:00:00 Asia/Tokyo", id="time in a zone"),
        pytest.param({"at": [datetime.time(3, tzinfo=TOKYO)]}, {"at": ["03:00:00 Asia/Tokyo"]}, id="time of day"),
        pytest.param(time.gmtime(0), (1970, 1, 1, 0, 0, 0, 3, 1, 0), id="struct_time"),
        pytest.param(np.datetime64("2024-01-02"), "2024-01-02", id="numpy date"),
        pytest.param(np.array(["2024-01"], "M8[M]"), ["2024-01"], id="numpy dates"),
        pytest.param(np.float32, float, id="numpy class"),
        pytest.param(torch.__version__, str(torch.__version__), id="torch's version"),
        pytest.param(datetime.timedelta(hours=3), datetime.timedelta(hours=3), id="duration"),
        pytest.param(argparse.Namespace(lr=np.float64(0.5)), {"lr": 0.5}, id="Namespace"),
        pytest.param(types.SimpleNamespace(a=[{"b": 1}]), {"a": [{"b": 1}]}, id="SimpleNamespace"),
        pytest.param(torch.Size([2, 3]), torch.Size([2, 3]), id="size"),
        pytest.param(torch.bfloat16, torch.bfloat16, id="tensor type"),
        pytest.param(torch.device("cuda:0"), torch.device("cuda:0"), id="device"),
        pytest.param(b"", b"", id="bytes"),
    ],
)
def test_plain_values(tmp_path, saved, read):
    file = tmp_path / "checkpoint_1.pth"
    torch.save({"some key": saved}, file)
    for device in ("cpu", "meta"):
        found = load_pickled(file, map_location=device)["some key"]
        assert found == read
        assert type(found) is type(read)


def test_configurations_pickled_as_objects(tmp_path):
    """Scripts that call torch.save themselves store coqui's objects; paths in them are read as text."""
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainerConfig

    config = GPTTrainerConfig(
        lr=3e-6, model_args=GPTArgs(gpt_layers=2), datasets=[BaseDatasetConfig(path=pathlib.PurePosixPath("/data"))]
    )
    torch.save({"config": config, "model": {}}, tmp_path / "a.pth")
    found = load_pickled(tmp_path / "a.pth", map_location="meta")["config"]
    assert found.keys() >= {"lr", "optimizer", "batch_size", "model_args", "audio"}
    assert not any(key.startswith("_") for key in found)
    assert (found["lr"], found["model_args"]["gpt_layers"], found["datasets"][0]["path"]) == (3e-6, 2, "/data")


def test_configurations_of_omegaconf(tmp_path, monkeypatch):
    """Hydra and Lightning store these in their files: each value is an object that refers to its parent."""

    def make(module, name, **fields):
        kind = type(name, (), {"__module__": f"omegaconf.{module}"})
        monkeypatch.setitem(sys.modules, kind.__module__, types.SimpleNamespace(**{name: kind}))
        node = kind()
        vars(node).update(fields)
        return node

    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    metadata = make("base", "ContainerMetadata", ref_type=typing.Any, object_type=dict)
    rate = make("nodes", "FloatNode", _val=5e-6, _metadata=metadata)
    layers = make("listconfig", "ListConfig", _content=[rate, rate], _metadata=metadata)
    config = make("dictconfig", "DictConfig", _content={"rates": layers, "lr": rate}, _metadata=metadata, _parent=None)
    vars(rate)["_parent"] = config
    torch.save({"config": config}, tmp_path / "a.pth")
    found = load_pickled(tmp_path / "a.pth", map_location="cpu")
    assert found == {"config": {"rates": [5e-6, 5e-6], "lr": 5e-6}}


class Kind(enum.Enum):
    BEST = 1


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Kind.BEST, "test_stand_ins.Kind"),
        (decimal.Decimal("1.5"), "decimal.Decimal"),
        (range(3), "range"),
        (functools.partial(max), "functools.partial"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.random.default_rng(1), "numpy.random._pickle.__generator_ctor"),
        (decimal.Context().copy, "decimal.Context"),
        (os.stat("/"), "os.stat_result"),
        (operator.itemgetter(1), "operator.itemgetter"),
    ],
    ids=[
        "enum",
        "decimal",
        "range",
        "partial",
        "a whole module",
        "generator",
        "a method",
        "what a file is",
        "itemgetter",
    ],
)
def test_other_objects_are_refused_but_not_called_code(tmp_path, value, name):
    torch.save({"date": value}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"contains an object of type \S*") as caught:
        load_pickled(tmp_path / "a.pth", map_location="meta")
    assert f"contains an object of type {name} and was not opened" in str(caught.value)
    assert "run code" not in str(caught.value)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"posix\.system"),
        (builtins.eval, "eval"),
        (builtins.exec, "exec"),
        (builtins.getattr, "getattr"),
        (subprocess.check_output, r"commands\.check_output"),
        (operator.attrgetter, r"_?operator\.attrgetter"),
    ],
    ids=["system", "eval", "exec", "getattr", "subprocess", "attrgetter"],
)
def test_a_function_that_runs_code_is_refused(tmp_path, function, name):
    torch.save({"date": Call(function, f"touch '{tmp_path}/it ran'")}, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=rf"would run code when loaded \({name}\)\. It was rejected, and no code was run"
    ):
        load_pickled(tmp_path / "a.pth", map_location="cpu")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("function", [len, max, print], ids=lambda function: function.__name__)
def test_harmless_functions_are_not_called_either(tmp_path, function):
    torch.save({"date": Call(function, "abc")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="was not opened"):
        load_pickled(tmp_path / "a.pth", map_location="cpu")


def test_another_pickle_protocol_is_named(tmp_path):
    torch.save({"step": 1}, tmp_path / "a.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="was not pickled with torch.save's default protocol"):
        load_pickled(tmp_path / "a.pth", map_location="cpu")
