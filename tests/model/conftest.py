"""Networks whose vocabulary is the mini base's plus seven tokens."""

import copy
import json
from pathlib import Path

import pytest
from networks import NEW, base_weights

from xtts_extend.model.embedding import extend_token_tensors
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.setup.base import config_for_base


@pytest.fixture(scope="session")
def larger_vocab(mini_base, tmp_path_factory) -> Path:
    content = json.loads((mini_base / "vocab.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    first = max(vocab.values()) + 1
    for number in range(NEW):
        vocab[chr(0x1200 + number)] = first + number
    path = tmp_path_factory.mktemp("vocab") / "vocab.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def loaded(mini_base, larger_vocab):
    """The base in a network with that vocabulary; tests must not change it."""
    model = ExtendedGPTTrainer(config_for_base(mini_base, larger_vocab))
    weights = base_weights(mini_base)
    rows = weights["gpt.text_embedding.weight"].shape[0]
    model.load_base(extend_token_tensors(weights, rows + NEW, "mean", {}, seed=0), rows)
    return model


@pytest.fixture
def extended(loaded):
    """A copy of that network. It shares the DVAE, most of the weights, which no test changes."""
    return copy.deepcopy(loaded, {id(loaded.dvae): loaded.dvae})
