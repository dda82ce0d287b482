"""Resuming with another vocabulary: it is refused, or every row is migrated to its token's new id."""

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
    """Return the tokens that the base lacks, without the language tag, in order of their ids."""
    tokens = load_vocabulary(corpus.vocab).tokens
    base = load_vocabulary(corpus.base / "vocab.json").tokens
    return sorted((token for token in tokens if token not in base and token != "[am]"), key=tokens.__getitem__)


def variant(corpus, how, folder):
    """Write a changed version of the corpus's vocabulary."""
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
def migrated_trainer(trainer_of):
    """Return a function that makes a trainer which has restored a checkpoint with another vocabulary."""

    def make(file, vocab, output, *flags):
        paths = ["--checkpoint", file, "--vocab", vocab, "--output-dir", output]
        return trainer_of([*paths, "--on-vocab-change", "migrate", "--new-run", *flags])

    return make


def rows_by_token(state, vocab):
    """Return token → its rows in the three token tensors."""
    tokens = load_vocabulary(vocab).tokens
    return {token: [state[PREFIX + name][row] for name in TOKEN_TENSORS] for token, row in tokens.items()}


def moments_by_token(trainer, vocab):
    """Return (parameter, token) → its two moments. Frozen rows have none."""
    tokens = load_vocabulary(vocab).tokens
    first = trainer.model.base_rows if trainer.model.rows_frozen else 0
    moments = {}
    for name, parameter in trainer.model.named_parameters():
        tensor = name.removeprefix(PREFIX).replace("new.", "")
        if tensor in TOKEN_TENSORS:
            state = trainer.optimizer[0].state[parameter]
            for token, row in tokens.items():
                if row >= first:
                    moments[tensor, token] = (state["exp_avg"][row - first], state["exp_avg_sq"][row - first])
    return moments


@pytest.mark.parametrize(
    ("how", "differences"),
    [
        ("added", ["1 token added: ፐ፼", "0 tokens removed", "0 tokens moved"]),
        ("removed", ["0 tokens added", "1 token removed: ", "0 tokens moved"]),
        ("permuted", ["0 tokens added", "0 tokens removed", "80 tokens moved to a different id: ", ", and 70 more"]),
    ],
)
def test_another_vocabulary_stops_and_lists_the_differences(short_run, corpus, fails, tmp_path, how, differences):
    vocab = variant(corpus, how, tmp_path)
    before = {file.name: file.read_bytes() for file in short_run.iterdir() if file.suffix != ".txt"}
    for more in ([], ["--allow-changes"]):
        code, message = fails(["--checkpoint", short_run, "--vocab", vocab, *more])
        assert code == 2
        for part in [*differences, "--on-vocab-change migrate", "Pass the run's vocabulary as --vocab"]:
            assert part in message
    assert {file.name: file.read_bytes() for file in short_run.iterdir() if file.suffix != ".txt"} == before


def test_different_merges_make_another_vocabulary(short_run, corpus, fails, tmp_path):
    data = json.loads(corpus.vocab.read_text(encoding="utf-8"))
    data["model"]["merges"].reverse()
    (tmp_path / "vocab.json").write_text(json.dumps(data), encoding="utf-8")
    code, message = fails(["--checkpoint", short_run, "--vocab", tmp_path / "vocab.json"])
    assert code == 2
    assert "the same tokens with the same ids, but different merges" in message


@pytest.fixture(scope="module")
def old_moments(short_run, migrated_trainer, corpus, tmp_path_factory):
    """`moments_by_token` with the run's own vocabulary."""
    return moments_by_token(migrated_trainer(short_run, corpus.vocab, tmp_path_factory.mktemp("same")), corpus.vocab)


@pytest.mark.parametrize(
    ("how", "created"),
    [
        pytest.param("added", 3, id="added"),
        pytest.param("removed", 0, id="removed"),
        pytest.param("permuted", 0, id="permuted"),
        pytest.param("old ones permuted", 0, id="old ones permuted", marks=pytest.mark.slow),
    ],
)
def test_rows_and_moments_are_migrated(short_run, migrated_trainer, corpus, old_moments, tmp_path, how, created):
    vocab = variant(corpus, how, tmp_path)
    trainer = migrated_trainer(short_run, vocab, tmp_path / "runs")
    saved = checkpoint(short_run, 4)
    before, after = rows_by_token(saved["model"], corpus.vocab), rows_by_token(trainer.model.state_dict(), vocab)
    for token in before.keys() & after.keys():
        for old, new in zip(before[token], after[token], strict=True):
            assert torch.equal(old, new), token
    restored = trainer.model.state_dict()
    for key, tensor in saved["model"].items():
        if key.removeprefix(PREFIX) not in TOKEN_TENSORS:
            assert torch.equal(restored[key], tensor)

    moments = moments_by_token(trainer, vocab)
    assert {key for key, _ in moments} == set(TOKEN_TENSORS)
    nonzero = 0
    for key in old_moments.keys() & moments.keys():
        for old, new in zip(old_moments[key], moments[key], strict=True):
            assert torch.equal(old, new), key
            nonzero += bool(old.any())
    assert nonzero > 100
    for key in moments.keys() - old_moments.keys():
        assert not any(moment.any() for moment in moments[key])
    assert len(moments.keys() - old_moments.keys()) == created

    assert trainer.model.rows_frozen
    assert trainer.model.base_digests == row_digests(trainer.model.state_dict(), trainer.model.base_rows, PREFIX)
    assert (trainer.position.step, trainer.position.epoch, trainer.position.batch) == (4, 0, 4)
    assert trainer.output_path.parent == tmp_path / "runs"


def test_migration_logs_removed_tokens(short_run, migrated_trainer, corpus, tmp_path, caplog):
    migrated_trainer(short_run, variant(corpus, "removed", tmp_path), tmp_path / "runs")
    assert f"1 token removed: {new_tokens(corpus)[-1]}" in caplog.text


@pytest.mark.slow
def test_permuted_vocabulary_does_not_change_training(short_run, corpus, recipe, tmp_path):
    resume = ["--checkpoint", short_run, "--max-steps", 9]
    recipe([*resume, "--output-dir", tmp_path / "same", "--new-run"])
    vocab = variant(corpus, "permuted", tmp_path)
    recipe([*resume, "--output-dir", tmp_path / "b", "--vocab", vocab, "--on-vocab-change", "migrate"])
    (lines, _), (permuted_lines, _) = (read_metrics(only_run(tmp_path / name)) for name in ("same", "b"))
    assert [line["step"] for line in permuted_lines] == [5, 6, 7, 8, 9]
    for line, permuted_line in zip(lines, permuted_lines, strict=True):
        assert line["samples"] == permuted_line["samples"]
        assert line["learning_rate"] == permuted_line["learning_rate"]
        # The permutation changes the order of summation over tokens, and so the rounding.
        assert line["loss"] == pytest.approx(permuted_line["loss"], rel=1e-5)
    rows = rows_by_token(checkpoint(only_run(tmp_path / "same"), 9)["model"], corpus.vocab)
    permuted = rows_by_token(checkpoint(only_run(tmp_path / "b"), 9)["model"], vocab)
    for token in rows:
        # Rounding differences have grown over five steps.
        assert torch.allclose(rows[token][0], permuted[token][0], atol=1e-4), token
    # The migrated run resumes with its own vocabulary, without flags.
    recipe(["--checkpoint", only_run(tmp_path / "b"), "--max-steps", 10])
    assert checkpoint(only_run(tmp_path / "b"), 10)["config"]["on_vocab_change"] == "stop"
    assert examine(only_run(tmp_path / "b"), corpus.base).verdict == "healthy"


def test_frozen_rows_must_come_first(short_run, migrated_trainer, corpus, old_moments, fails, tmp_path):
    vocab = variant(corpus, "mixed", tmp_path)
    code, message = fails(["--checkpoint", short_run, "--vocab", vocab, "--on-vocab-change", "migrate"])
    assert code == 2
    assert "--no-freeze-base-rows" in message
    trainer = migrated_trainer(short_run, vocab, tmp_path / "runs", "--no-freeze-base-rows")
    assert not trainer.model.rows_frozen
    moments = moments_by_token(trainer, vocab)
    for key, pair in moments.items():
        for index, moment in enumerate(pair):
            expected = old_moments[key][index] if key in old_moments else torch.zeros_like(moment)
            assert torch.equal(moment, expected), key


def test_checkpoint_with_more_rows_than_its_vocabulary_file(stock_file, corpus, fails, tmp_path):
    """The weights could be loaded, but the moments belong to other rows."""
    smaller = variant(corpus, "removed", tmp_path)
    file = edited(stock_file, tmp_path, naming_vocabulary(smaller))
    shutil.copyfile(smaller, tmp_path / "vocab.json")
    rows = load_vocabulary(corpus.vocab).size
    flags = corpus.flags(checkpoint=file, vocab=smaller, val_manifest=None)
    code, message = fails(flags)
    assert code == 2
    assert f"({rows} token rows) was trained with is unknown" in message
    assert f"has {rows - 1} tokens and does not match" in message
    code, message = fails([*flags, "--checkpoint-vocab", smaller])
    assert (code, "Pass the vocabulary that the checkpoint was trained with" in message) == (2, True)
    # With the checkpoint's own vocabulary, the differences can be listed.
    code, message = fails([*flags, "--checkpoint-vocab", corpus.vocab])
    assert (code, "1 token removed" in message) == (2, True)


def test_recorded_vocabulary_file_is_missing(stock_file, corpus, fails, trainer_of, tmp_path):
    """The stock Trainer records only the path of the vocabulary."""
    file = edited(stock_file, tmp_path / "moved", naming_no_vocabulary)
    flags = corpus.stock_flags(file, val_manifest=None, output_dir=tmp_path / "runs")
    code, message = fails(flags)
    assert (code, "Pass the vocabulary with --checkpoint-vocab" in message) == (2, True)
    trainer = trainer_of([*flags, "--checkpoint-vocab", corpus.vocab])
    assert (trainer.position.step, trainer.model.vocab_size) == (5, load_vocabulary(corpus.vocab).size)


@pytest.mark.slow
def test_moments_of_a_stock_run_are_migrated(stock_file, migrated_trainer, corpus, tmp_path):
    vocab = variant(corpus, "permuted", tmp_path)
    flags = ["--base-dir", corpus.base, "--language", "am", "--train-manifest", corpus.train]
    trainer = migrated_trainer(stock_file, vocab, tmp_path / "runs", "--checkpoint-vocab", corpus.vocab, *flags)
    same = migrated_trainer(stock_file, corpus.vocab, tmp_path / "same", *flags)
    assert not trainer.model.rows_frozen
    before, after = moments_by_token(same, corpus.vocab), moments_by_token(trainer, vocab)
    assert before.keys() == after.keys()
    assert len(before) == 3 * len(load_vocabulary(corpus.vocab).tokens)
    for key in before:
        for old, new in zip(before[key], after[key], strict=True):
            assert torch.equal(old, new), key
    rows = rows_by_token(torch.load(stock_file, weights_only=True)["model"], corpus.vocab)
    for token, migrated in rows_by_token(trainer.model.state_dict(), vocab).items():
        assert all(map(torch.equal, rows[token], migrated)), token


@pytest.mark.slow
def test_start_fresh_with_an_unknown_vocabulary(stock_file, corpus, fails, recipe, tmp_path, caplog):
    """Tokens are recognized by their rows. The rows are shuffled, as if the tokenizer had been rebuilt."""
    rows = load_vocabulary(corpus.vocab).size
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    file = edited(stock_file, tmp_path, with_rows_in_order(order), naming_vocabulary("/elsewhere/vocab.json"))
    flags = corpus.flags(checkpoint=file, val_manifest=None, max_steps=1, learning_rate=0, weight_decay=0)
    code, message = fails(flags)
    assert (code, "is unknown: the file records none" in message) == (2, True)
    recipe([*flags, "--start-fresh", "--output-dir", tmp_path / "runs", "--init", "mean"])
    base = load_vocabulary(corpus.base / "vocab.json").tokens
    assert f"Recognized {len(base)} of the base's {len(base)} tokens" in caplog.text
    fresh = checkpoint(only_run(tmp_path / "runs"), 1)
    assert fresh["xtts_extend"]["base_rows"]["rows"] == len(base)
    weights, trained = fresh["model"], torch.load(file, weights_only=True)["model"]
    new_rows = order.argsort()
    for name in TOKEN_TENSORS:
        assert torch.equal(weights[PREFIX + name][: len(base)], trained[PREFIX + name][new_rows[: len(base)]])
        expected = extend_rows(trained[PREFIX + name], rows - len(base), "mean", {}, seed=1)[rows:]
        assert torch.equal(weights[PREFIX + name][len(base) :], expected)
    assert torch.equal(weights[PREFIX + "mel_head.weight"], trained[PREFIX + "mel_head.weight"])


def test_checkpoint_vocab_contradicts_the_recorded_vocabulary(short_run, corpus, fails, tmp_path):
    code, message = fails(["--checkpoint", short_run, "--checkpoint-vocab", variant(corpus, "added", tmp_path)])
    assert (code, "records its vocabulary" in message) == (2, True)


@pytest.fixture(scope="module")
def gaps_closed(stock_file, corpus, tmp_path_factory):
    """A base with a gap in its ids, an extended vocabulary, and a stock checkpoint of a tool that closed the gap.

    The tool's vocabulary file has no unknown token and starts with a byte order mark.
    """
    folder = tmp_path_factory.mktemp("gaps")
    shutil.copytree(corpus.base, folder / "base", copy_function=os.link)
    (folder / "base" / "vocab.json").unlink()
    old = load_vocabulary(corpus.base / "vocab.json")
    parts = {part for merge in old.merges for part in merge}
    results = sorted((old.tokens[left + right], left + right) for left, right in old.merges)
    removed = next(token for row, token in results if row > 300 and token not in parts)
    for source, gappy in ((corpus.base / "vocab.json", folder / "base/vocab.json"), (corpus.vocab, folder / "am.json")):
        data = json.loads(source.read_text(encoding="utf-8"))
        del data["model"]["vocab"][removed]
        data["model"]["merges"] = [merge for merge in data["model"]["merges"] if merge.replace(" ", "") != removed]
        gappy.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    closed = changed_vocabulary(corpus.vocab, folder / "vocab.json", remove=[removed])
    data = json.loads(closed.read_text(encoding="utf-8"))
    data["model"]["unk_token"] = None
    closed.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8-sig")
    rows = load_vocabulary(corpus.vocab).size
    keep = [row for row in range(rows) if row != old.tokens[removed]]
    edited(stock_file, folder, with_rows_in_order(keep, moments=True), naming_vocabulary(closed))
    return folder


@pytest.fixture(scope="module")
def gaps_closed_trainer(gaps_closed, migrated_trainer, corpus, tmp_path_factory):
    """Return a function that makes a trainer which resumes the checkpoint of `gaps_closed` with a vocabulary."""

    def make(vocab):
        flags = ["--base-dir", gaps_closed / "base", "--language", "am", "--train-manifest", corpus.train]
        return migrated_trainer(gaps_closed / "checkpoint_4.pth", vocab, tmp_path_factory.mktemp("resumed"), *flags)

    return make


@pytest.mark.slow
def test_checkpoint_of_a_tool_that_closed_the_gaps(gaps_closed, gaps_closed_trainer):
    """It resumes with its own vocabulary and migrates to another one."""
    file, closed, gappy = (gaps_closed / name for name in ("checkpoint_4.pth", "vocab.json", "am.json"))
    same = gaps_closed_trainer(closed)
    assert (same.position.step, same.model.vocab_size) == (5, load_vocabulary(closed).size)
    assert same.model.xtts.tokenizer.tokenizer.encode("日").ids == [1], "The unknown token was dropped."
    assert same.config.model_args.tokenizer_file == str(closed)

    trainer = gaps_closed_trainer(gappy)
    rows = rows_by_token(torch.load(file, weights_only=True)["model"], closed)
    migrated_rows = rows_by_token(trainer.model.state_dict(), gappy)
    assert rows.keys() == migrated_rows.keys()
    for token, migrated in migrated_rows.items():
        assert all(map(torch.equal, rows[token], migrated)), token
    before, after = moments_by_token(same, closed), moments_by_token(trainer, gappy)
    for key in before:
        assert all(map(torch.equal, before[key], after[key])), key


def test_vocabulary_with_gaps_that_the_checkpoint_closed(gaps_closed, corpus, fails):
    file, gappy = gaps_closed / "checkpoint_4.pth", gaps_closed / "am.json"
    code, message = fails(corpus.flags(checkpoint=file, base_dir=gaps_closed / "base", vocab=gappy, val_manifest=None))
    assert (code, "of them because gaps in the base's token ids were closed" in message) == (2, True)


def test_vocabulary_without_the_gaps_of_the_base(gaps_closed, corpus, fails):
    closed = gaps_closed / "vocab.json"
    code, message = fails(corpus.flags(base_dir=gaps_closed / "base", vocab=closed, val_manifest=None))
    assert (code, "because gaps in the base's token ids were closed" in message) == (2, True)


@pytest.mark.slow
def test_checkpoint_of_a_tool_that_closed_the_gaps_is_diagnosed(gaps_closed, tmp_path):
    base = gaps_closed / "base"
    file = gaps_closed / "checkpoint_4.pth"
    diagnosis = examine(file, base)
    assert "wrong-vocabulary" not in (diagnosis.verdict, *diagnosis.also)
    assert "because gaps in the base's token ids were closed" in examine(file, base, gaps_closed / "am.json").reason
    # Rows copied by index: every row after the gap is that of the neighboring token.
    start = {f"xtts.{name}": tensor for name, tensor in base_weights(base).items()}
    copied_by_index = with_rows_of(start, (EMBEDDING, HEAD, BIAS), slice(390))
    diagnosis = examine(edited(file, tmp_path, copied_by_index), base)
    assert diagnosis.verdict == "wrong-vocabulary"
    assert "The ids were reassigned, " in diagnosis.reason
    assert "because gaps in the base's token ids were closed" in diagnosis.reason


@pytest.fixture
def merge_warnings(trainer_of, corpus, tmp_path, caplog):
    """Return a function that starts a run with a vocabulary and returns its warnings about tokens without merges."""

    def start(vocab):
        trainer_of(corpus.flags(vocab=vocab, output_dir=tmp_path / "runs", val_manifest=None))
        return [line for line in caplog.text.splitlines() if "no merge" in line or "nothing" in line]

    return start


def test_start_warns_of_new_entries_without_merges(merge_warnings, corpus, tmp_path):
    # load_vocabulary warns of the entry. The later check for tokens that never occur must not repeat it.
    (line,) = merge_warnings(variant(corpus, "added", tmp_path))
    assert "1 multi-character entry is not produced by any merge" in line
    assert "its row learns nothing: ፐ፼." in line


def test_start_does_not_warn_of_new_entries_with_merges(merge_warnings, corpus):
    assert merge_warnings(corpus.vocab) == []
