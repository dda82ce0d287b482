"""Fixtures that every room's tests share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is imported: the workers of pytest-xdist would each start a team of threads as large as the machine, and
# such teams, on the same cores, spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real test data that the project did not write; a test that wants it skips where it is missing."""
    folder = Path(os.environ.get("XTTS_EXTEND_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set XTTS_EXTEND_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def mini_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained base directory of 2 layers × 64 channels that soon ends what it says; not to be written to."""
    import torch

    from xtts_extend.demo.mini_base import make_mini_base

    base = make_mini_base(tmp_path_factory.mktemp("base") / "mini", layers=2, channels=64, heads=2)
    content = torch.load(base / "model.pth", weights_only=True)
    content["model"]["gpt.mel_head.bias"][-1] += 4
    torch.save(content, base / "model.pth")
    return base


@pytest.fixture(scope="session")
def corpus(mini_base, tmp_path_factory):
    """A small corpus in a new language and its vocabulary; the type is `runs.Corpus`."""
    pytest.importorskip("espeakng_loader", reason="speech for training needs the extra 'demo'")
    from runs import Corpus

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
    from runs import RECIPE

    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="session")
def short_run(corpus, recipe, tmp_path_factory) -> Path:
    """A run of ours, four steps of twelve; not to be written to."""
    from runs import only_run

    output = tmp_path_factory.mktemp("short")
    recipe(corpus.flags(output_dir=output, max_steps=4, val_manifest=None))
    return only_run(output)


@pytest.fixture(scope="session")
def stock_file(corpus, tmp_path_factory) -> Path:
    """`checkpoint_4.pth` of coqui's Trainer, from the base, with rows of noise for new tokens; not to be written to."""
    from runs import stock_run

    with pytest.MonkeyPatch.context() as patch:
        return stock_run(corpus, tmp_path_factory.mktemp("stock") / "run", patch, from_base="stock")
