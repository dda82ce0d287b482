"""A checkpoint that meets another vocabulary: refused by its tokens, or carried, every row with its token."""

import json
import os
import shutil

import pytest
import torch
from checkpoints import (
    BIAS,
    EMBEDDING,
    HEAD,
    PREFIX,
    edited,
    naming_no_vocabulary,
    naming_vocabulary,
    with_rows_in_order,
    with_rows_of,
)
from networks import base_weights
from runs import changed_vocabulary, checkpoint, only_run

from xtts_extend.model.embedding import TOKEN_TENSORS, extend_rows
from xtts_extend.model.gpt_trainer import row_digests
from xtts_extend.rescue.doctor import examine
from xtts_extend.run.metrics import read_metrics
from xtts_extend.text.vocabulary import load_vocabulary


def new_tokens(corpus):
    """Those after the base's, in the order of their ids, without the tag."""
    tokens = load_vocabulary(corpus.vocab).tokens
    base = load_vocabulary(corpus.base / "vocab.json").tokens
    return sorted((token for token in tokens if token not in base and token != "[am]"), key=tokens.__getitem__)


def variant(corpus, how, folder):
    """A changed vocabulary of the corpus' language."""
    tokens = new_tokens(corpus)
    changes = {
        "added": {"add": ["ፐ፼"]},
        "removed": {"remove": [tokens[-1]]},
        "permuted": {"exchange": dict(zip(tokens[:40], tokens[:-41:-1], strict=True))},
        "old ones permuted": {"exchange": {"a": "b", "[en]": "[es]"}},
        "mixed": {"exchange": {"a": tokens[3]}},
    }
    return changed_vocabulary(corpus.vocab, folder / f"{how}.json", **changes[how])


@pytest.fixture(scope="session")
def continued(trainer_of):
    """A trainer that has restored a checkpoint with another vocabulary, before its first step."""

    def make(file, vocab, output, *flags):
        paths = ["--checkpoint", file, "--vocab", vocab, "--output-dir", output]
        return trainer_of([*paths, "--on-vocab-change", "migrate", "--new-run", *flags])

    return make


def rows_by_token(state, vocab):
    """token → its rows of the three token tensors."""
    tokens = load_vocabulary(vocab).tokens
    return {token: [state[PREFIX + name][row] for name in TOKEN_TENSORS] for token, row in tokens.items()}


def moments_by_token(trainer, vocab):
    """(parameter, token) → its two moments; of frozen rows there are none."""
    tokens = load_vocabulary(vocab).tokens
    first = trainer.model.base_rows if trainer.model.rows_frozen else 0
    found = {}
    for name, parameter in trainer.model.named_parameters():
        tensor = name.removeprefix(PREFIX).replace("new.", "")
        if tensor in TOKEN_TENSORS:
            state = trainer.optimizer[0].state[parameter]
            for token, row in tokens.items():
                if row >= first:
                    found[tensor, token] = (state["exp_avg"][row - first], state["exp_avg_sq"][row - first])
    return found


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("added", ["1 token added: ፐ፼", "0 tokens removed", "0 tokens moved"]),
        ("removed", ["0 tokens added", "1 token removed: ", "0 tokens moved"]),
        ("permuted", ["0 tokens added", "0 tokens removed", "80 tokens moved to another id: ", ", and 70 more"]),
    ],
)
def test_another_vocabulary_stops_with_the_difference_in_words(short_run, corpus, fails, tmp_path, how, said):
    vocab = variant(corpus, how, tmp_path)
    before = {file.name: file.read_bytes() for file in short_run.iterdir() if file.suffix != ".txt"}
    for more in ([], ["--allow-changes"]):
        code, message = fails(["--checkpoint", short_run, "--vocab", vocab, *more])
        assert code == 2
        for part in [*said, "--on-vocab-change migrate", "Continue with the vocabulary of the run (--vocab)"]:
            assert part in message
    assert {file.name: file.read_bytes() for file in short_run.iterdir() if file.suffix != ".txt"} == before


def test_other_merges_alone_are_another_vocabulary(short_run, corpus, fails, tmp_path):
    data = json.loads(corpus.vocab.read_text(encoding="utf-8"))
    data["model"]["merges"].reverse()
    (tmp_path / "vocab.json").write_text(json.dumps(data), encoding="utf-8")
    code, message = fails(["--checkpoint", short_run, "--vocab", tmp_path / "vocab.json"])
    assert code == 2
    assert "the same tokens with the same ids, but other merges" in message


@pytest.fixture(scope="module")
def old_moments(short_run, continued, corpus, tmp_path_factory):
    """`moments_by_token` with the vocabulary that the run had."""
    return moments_by_token(continued(short_run, corpus.vocab, tmp_path_factory.mktemp("same")), corpus.vocab)


@pytest.mark.parametrize(
    ("how", "created"),
    [
        pytest.param("added", 3, id="added"),
        pytest.param("removed", 0, id="removed"),
        pytest.param("permuted", 0, id="permuted"),
        pytest.param("old ones permuted", 0, id="old ones permuted", marks=pytest.mark.slow),
    ],
)
def test_rows_and_moments_follow_their_tokens(short_run, continued, corpus, old_moments, tmp_path, how, created):
    vocab = variant(corpus, how, tmp_path)
    trainer = continued(short_run, vocab, tmp_path / "runs")
    saved = checkpoint(short_run, 4)
    before, now = rows_by_token(saved["model"], corpus.vocab), rows_by_token(trainer.model.state_dict(), vocab)
    for token in before.keys() & now.keys():
        for one, other in zip(before[token], now[token], strict=True):
            assert torch.equal(one, other), token
    restored = trainer.model.state_dict()
    for key, tensor in saved["model"].items():
        if key.removeprefix(PREFIX) not in TOKEN_TENSORS:
            assert torch.equal(restored[key], tensor)

    moments = moments_by_token(trainer, vocab)
    assert {key for key, _ in moments} == set(TOKEN_TENSORS)
    seen = 0
    for key in old_moments.keys() & moments.keys():
        for one, other in zip(old_moments[key], moments[key], strict=True):
            assert torch.equal(one, other), key
            seen += bool(one.any())
    assert seen > 100
    for key in moments.keys() - old_moments.keys():
        assert not any(moment.any() for moment in moments[key])
    assert len(moments.keys() - old_moments.keys()) == created

    assert trainer.model.rows_frozen
    assert trainer.model.base_digests == row_digests(trainer.model.state_dict(), trainer.model.base_rows, PREFIX)
    assert (trainer.position.step, trainer.position.epoch, trainer.position.batch) == (4, 0, 4)
    assert trainer.output_path.parent == tmp_path / "runs"


def test_a_migration_says_what_was_removed(short_run, continued, corpus, tmp_path, caplog):
    continued(short_run, variant(corpus, "removed", tmp_path), tmp_path / "runs")
    assert f"1 token removed: {new_tokens(corpus)[-1]}" in caplog.text


@pytest.mark.slow
def test_a_permuted_run_goes_on_as_if_nothing_had_happened(short_run, corpus, recipe, tmp_path):
    more = ["--checkpoint", short_run, "--max-steps", 9]
    recipe([*more, "--output-dir", tmp_path / "same", "--new-run"])
    vocab = variant(corpus, "permuted", tmp_path)
    recipe([*more, "--output-dir", tmp_path / "b", "--vocab", vocab, "--on-vocab-change", "migrate"])
    (one, _), (other, _) = (read_metrics(only_run(tmp_path / name)) for name in ("same", "b"))
    assert [line["step"] for line in other] == [5, 6, 7, 8, 9]
    for ours, theirs in zip(one, other, strict=True):
        assert ours["samples"] == theirs["samples"]
        assert ours["learning_rate"] == theirs["learning_rate"]
        # the sum over all tokens is in another order
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    rows = rows_by_token(checkpoint(only_run(tmp_path / "same"), 9)["model"], corpus.vocab)
    permuted = rows_by_token(checkpoint(only_run(tmp_path / "b"), 9)["model"], vocab)
    for token in rows:
        # after five steps the other order of that sum shows in the last digits
        assert torch.allclose(rows[token][0], permuted[token][0], atol=1e-4), token
    # the migrated run resumes by itself, with its own vocabulary
    recipe(["--checkpoint", only_run(tmp_path / "b"), "--max-steps", 10])
    assert checkpoint(only_run(tmp_path / "b"), 10)["config"]["on_vocab_change"] == "stop"
    assert examine(only_run(tmp_path / "b"), corpus.base).verdict == "healthy"


def test_frozen_rows_that_would_not_come_first(short_run, continued, corpus, old_moments, fails, tmp_path):
    vocab = variant(corpus, "mixed", tmp_path)
    code, message = fails(["--checkpoint", short_run, "--vocab", vocab, "--on-vocab-change", "migrate"])
    assert code == 2
    assert "--no-freeze-base-rows" in message
    trainer = continued(short_run, vocab, tmp_path / "runs", "--no-freeze-base-rows")
    assert not trainer.model.rows_frozen
    moments = moments_by_token(trainer, vocab)
    for key, pair in moments.items():
        for index, moment in enumerate(pair):
            expected = old_moments[key][index] if key in old_moments else torch.zeros_like(moment)
            assert torch.equal(moment, expected), key


def test_a_checkpoint_with_a_token_more_than_its_tokenizer(stock_file, corpus, fails, tmp_path):
    """The weights would load, and the moments belong to other rows."""
    smaller = variant(corpus, "removed", tmp_path)
    file = edited(stock_file, tmp_path, naming_vocabulary(smaller))
    shutil.copyfile(smaller, tmp_path / "vocab.json")
    rows = load_vocabulary(corpus.vocab).size
    flags = corpus.flags(checkpoint=file, vocab=smaller, val_manifest=None)
    code, message = fails(flags)
    assert code == 2
    assert f"({rows} token rows) was trained with is not known" in message
    assert f"has {rows - 1} tokens and is not it" in message
    code, message = fails([*flags, "--checkpoint-vocab", smaller])
    assert (code, "Give the right one" in message) == (2, True)
    # with the vocabulary that it had, its difference to the tokenizer is known
    code, message = fails([*flags, "--checkpoint-vocab", corpus.vocab])
    assert (code, "1 token removed" in message) == (2, True)


def test_a_vocabulary_that_is_only_named(stock_file, corpus, fails, trainer_of, tmp_path):
    """The stock Trainer records where it was, and it is not there any more."""
    file = edited(stock_file, tmp_path / "moved", naming_no_vocabulary)
    flags = corpus.stock_flags(file, val_manifest=None, output_dir=tmp_path / "runs")
    code, message = fails(flags)
    assert (code, "Name it with --checkpoint-vocab" in message) == (2, True)
    trainer = trainer_of([*flags, "--checkpoint-vocab", corpus.vocab])
    assert (trainer.position.step, trainer.model.vocab_size) == (5, load_vocabulary(corpus.vocab).size)


@pytest.mark.slow
def test_moments_of_a_stock_run_follow_their_tokens(stock_file, continued, corpus, tmp_path):
    vocab = variant(corpus, "permuted", tmp_path)
    given = ["--base-dir", corpus.base, "--language", "am", "--train-manifest", corpus.train]
    trainer = continued(stock_file, vocab, tmp_path / "runs", "--checkpoint-vocab", corpus.vocab, *given)
    same = continued(stock_file, corpus.vocab, tmp_path / "same", *given)
    assert not trainer.model.rows_frozen
    before, now = moments_by_token(same, corpus.vocab), moments_by_token(trainer, vocab)
    assert before.keys() == now.keys()
    assert len(before) == 3 * len(load_vocabulary(corpus.vocab).tokens)
    for key in before:
        for one, other in zip(before[key], now[key], strict=True):
            assert torch.equal(one, other), key
    rows = rows_by_token(torch.load(stock_file, weights_only=True)["model"], corpus.vocab)
    for token, found in rows_by_token(trainer.model.state_dict(), vocab).items():
        assert all(map(torch.equal, rows[token], found)), token


@pytest.mark.slow
def test_an_unknown_vocabulary_gives_weights_of_recognised_tokens(stock_file, corpus, fails, recipe, tmp_path, caplog):
    """Its rows are shuffled, as by a tokenizer that was made anew."""
    rows = load_vocabulary(corpus.vocab).size
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    file = edited(stock_file, tmp_path, with_rows_in_order(order), naming_vocabulary("/elsewhere/vocab.json"))
    flags = corpus.flags(checkpoint=file, val_manifest=None, max_steps=1, learning_rate=0, weight_decay=0)
    code, message = fails(flags)
    assert (code, "is not known: it records none" in message) == (2, True)
    recipe([*flags, "--start-fresh", "--output-dir", tmp_path / "runs", "--init", "mean"])
    base = load_vocabulary(corpus.base / "vocab.json").tokens
    assert f"{len(base)} of the base's {len(base)} tokens are recognised" in caplog.text
    fresh = checkpoint(only_run(tmp_path / "runs"), 1)
    assert fresh["xtts_extend"]["base_rows"]["rows"] == len(base)
    weights, trained = fresh["model"], torch.load(file, weights_only=True)["model"]
    places = order.argsort()
    for name in TOKEN_TENSORS:
        assert torch.equal(weights[PREFIX + name][: len(base)], trained[PREFIX + name][places[: len(base)]])
        expected = extend_rows(trained[PREFIX + name], rows - len(base), "mean", {}, seed=1)[rows:]
        assert torch.equal(weights[PREFIX + name][len(base) :], expected)
    assert torch.equal(weights[PREFIX + "mel_head.weight"], trained[PREFIX + "mel_head.weight"])


def test_a_given_vocabulary_that_contradicts_the_recorded_one(short_run, corpus, fails, tmp_path):
    code, message = fails(["--checkpoint", short_run, "--checkpoint-vocab", variant(corpus, "added", tmp_path)])
    assert (code, "records its vocabulary" in message) == (2, True)


@pytest.fixture(scope="module")
def gaps_closed(stock_file, corpus, tmp_path_factory):
    """A base whose ids have a gap, its vocabulary for the run, and a stock checkpoint of a tool that closed the gap.

    The tool names no unknown token, and its file begins with a byte order mark.
    """
    folder = tmp_path_factory.mktemp("gaps")
    shutil.copytree(corpus.base, folder / "base", copy_function=os.link)
    (folder / "base" / "vocab.json").unlink()
    old = load_vocabulary(corpus.base / "vocab.json")
    parts = {part for merge in old.merges for part in merge}
    results = sorted((old.tokens[left + right], left + right) for left, right in old.merges)
    gone = next(token for row, token in results if row > 300 and token not in parts)
    for source, gappy in ((corpus.base / "vocab.json", folder / "base/vocab.json"), (corpus.vocab, folder / "am.json")):
        data = json.loads(source.read_text(encoding="utf-8"))
        del data["model"]["vocab"][gone]
        data["model"]["merges"] = [merge for merge in data["model"]["merges"] if merge.replace(" ", "") != gone]
        gappy.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    closed = changed_vocabulary(corpus.vocab, folder / "vocab.json", remove=[gone])
    data = json.loads(closed.read_text(encoding="utf-8"))
    data["model"]["unk_token"] = None
    closed.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8-sig")
    rows = load_vocabulary(corpus.vocab).size
    keep = [row for row in range(rows) if row != old.tokens[gone]]
    edited(stock_file, folder, with_rows_in_order(keep, moments=True), naming_vocabulary(closed))
    return folder


@pytest.fixture(scope="module")
def went_on(gaps_closed, continued, corpus, tmp_path_factory):
    """The trainer that continues such a checkpoint with a vocabulary."""

    def make(vocab):
        given = ["--base-dir", gaps_closed / "base", "--language", "am", "--train-manifest", corpus.train]
        return continued(gaps_closed / "checkpoint_4.pth", vocab, tmp_path_factory.mktemp("went on"), *given)

    return make


def test_a_checkpoint_of_a_tool_that_closed_the_gaps(gaps_closed, went_on):
    """It goes on with its own vocabulary, and migrates to another one."""
    file, closed, gappy = (gaps_closed / name for name in ("checkpoint_4.pth", "vocab.json", "am.json"))
    same = went_on(closed)
    assert (same.position.step, same.model.vocab_size) == (5, load_vocabulary(closed).size)
    assert same.model.xtts.tokenizer.tokenizer.encode("日").ids == [1], "coqui's own reading would drop it"
    assert same.config.model_args.tokenizer_file == str(closed)

    trainer = went_on(gappy)
    rows = rows_by_token(torch.load(file, weights_only=True)["model"], closed)
    moved = rows_by_token(trainer.model.state_dict(), gappy)
    assert rows.keys() == moved.keys()
    for token, found in moved.items():
        assert all(map(torch.equal, rows[token], found)), token
    before, now = moments_by_token(same, closed), moments_by_token(trainer, gappy)
    for key in before:
        assert all(map(torch.equal, before[key], now[key])), key


def test_a_vocabulary_with_other_gaps_than_the_checkpoints(gaps_closed, corpus, fails):
    file, gappy = gaps_closed / "checkpoint_4.pth", gaps_closed / "am.json"
    code, message = fails(corpus.flags(checkpoint=file, base_dir=gaps_closed / "base", vocab=gappy, val_manifest=None))
    assert (code, "of them because the base's gaps were closed" in message) == (2, True)


def test_a_vocabulary_with_other_gaps_than_the_bases(gaps_closed, corpus, fails):
    closed = gaps_closed / "vocab.json"
    code, message = fails(corpus.flags(base_dir=gaps_closed / "base", vocab=closed, val_manifest=None))
    assert (code, "because the base's gaps were closed" in message) == (2, True)


@pytest.mark.slow
def test_a_checkpoint_of_a_tool_that_closed_the_gaps_is_diagnosed(gaps_closed, tmp_path):
    base = gaps_closed / "base"
    file = gaps_closed / "checkpoint_4.pth"
    found = examine(file, base)
    assert "wrong-vocabulary" not in (found.verdict, *found.also)
    assert "because the base's gaps were closed" in examine(file, base, gaps_closed / "am.json").reason
    # rows that were read by their place: those after the gap are those of their neighbours
    start = {f"xtts.{name}": tensor for name, tensor in base_weights(base).items()}
    read_by_place = with_rows_of(start, (EMBEDDING, HEAD, BIAS), slice(390))
    found = examine(edited(file, tmp_path, read_by_place), base)
    assert found.verdict == "wrong-vocabulary"
    assert "the ids were reassigned, " in found.reason
    assert "because the base's gaps were closed" in found.reason


@pytest.fixture
def warned(trainer_of, corpus, tmp_path, caplog):
    """What is said at a start with a vocabulary about its entries that lack merges."""

    def start(vocab):
        trainer_of(corpus.flags(vocab=vocab, output_dir=tmp_path / "runs", val_manifest=None))
        return [line for line in caplog.text.splitlines() if "no merge" in line or "nothing" in line]

    return start


def test_new_entries_without_merges_are_named_at_a_start(warned, corpus, tmp_path):
    # once, by the loading: the comparison with the base's finds the same
    (line,) = warned(variant(corpus, "added", tmp_path))
    assert "1 entry of several characters has no merge" in line
    assert "its row learns nothing: ፐ፼." in line


def test_new_entries_with_merges_are_not_named_at_a_start(warned, corpus):
    assert warned(corpus.vocab) == []
