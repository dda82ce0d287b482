"""A small corpus in a new language, its vocabulary, and the recipe as a function."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import RECIPE, Corpus, only_run


@pytest.fixture(scope="session")
def corpus(mini_base, tmp_path_factory) -> Corpus:
    pytest.importorskip("espeakng_loader", reason="speech for training needs the extra 'demo'")
    from xtts_extend.demo.speech import make_corpus
    from xtts_extend.demo.texts import sentences
    from xtts_extend.text.extend import extend_vocabulary

    folder = tmp_path_factory.mktemp("ንግግር corpus")
    amharic = sentences("am", 16)
    lines = make_corpus(amharic, "am", folder / "am", progress=False).read_text(encoding="utf-8").splitlines(True)
    train, val = folder / "am" / "train.csv", folder / "am" / "val.csv"
    train.write_text("".join(lines[:13]), encoding="utf-8")
    val.write_text("".join(lines[:1] + lines[13:]), encoding="utf-8")
    english = make_corpus(sentences("en", 3), "en", folder / "en", progress=False)
    (folder / "am.txt").write_text("\n".join(amharic), encoding="utf-8")
    extend_vocabulary(mini_base / "vocab.json", "am", folder / "vocab.json", texts=[folder / "am.txt"], size=150)
    return Corpus(mini_base, folder / "vocab.json", train, val, english)


@pytest.fixture(scope="session")
def recipe() -> Callable[[list[str]], None]:
    """The recipe's main, in this process."""
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="session")
def uninterrupted(corpus, recipe, tmp_path_factory) -> Path:
    """Two epochs in one go, evaluated in the middle as well: the run that all others are compared with."""
    output = tmp_path_factory.mktemp("uninterrupted")
    recipe(corpus.flags(output_dir=output, eval_step=4, save_step=4, warmup_steps=6))
    return only_run(output)
