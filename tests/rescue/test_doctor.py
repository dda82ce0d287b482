"""Verdicts of the doctor on checkpoints of coqui's Trainer and of ours."""

import json
import math
import shutil

import pytest
import torch
from checkpoints import (
    EMBEDDING,
    HEAD,
    MEL_HEAD,
    PREFIX,
    at_step,
    cut,
    drawn_again,
    drifted_rows,
    edited,
    flip_a_bit,
    naming_no_vocabulary,
    nudged,
    put,
    rows_moved_by,
    with_rows_of,
    without,
    wrecked,
)
from runs import base_rows, changed_vocabulary, only_run

from xtts_extend.cli import main
from xtts_extend.errors import CheckpointError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.rescue.doctor import VERDICTS, examine
from xtts_extend.rescue.opened_checkpoint import moments_by_name, open_checkpoint_with_base
from xtts_extend.text.vocabulary import load_vocabulary

RECIPE_COMMAND = "python recipes/new_language/train_gpt_xtts.py"


####################
# VERDICTS
####################


@pytest.mark.parametrize(
    ("healthy", "damage"),
    [
        pytest.param("ours", lambda file: cut(file, file.stat().st_size // 2), id="cut"),
        pytest.param("stock", lambda file: cut(file, file.stat().st_size // 2), id="stock's, cut"),
        pytest.param("ours", lambda file: cut(file, 0), id="empty"),
        pytest.param("ours", lambda file: file.write_bytes(bytes(file.stat().st_size)), id="zeros"),
        pytest.param("ours", flip_a_bit, id="a bit", marks=pytest.mark.slow),
        pytest.param("stock", flip_a_bit, id="stock's, a bit", marks=pytest.mark.slow),
    ],
    indirect=["healthy"],
)
def test_truncated(healthy, corpus, tmp_path, damage):
    damage(shutil.copyfile(healthy, tmp_path / "checkpoint_4.pth"))
    found = examine(tmp_path / "checkpoint_4.pth", corpus.base)
    assert found.verdict == "truncated"
    assert found.next_command.startswith(f"{RECIPE_COMMAND} --base-dir {corpus.base} --vocab ")
    shutil.copyfile(healthy, tmp_path / "checkpoint_3.pth")
    found = examine(tmp_path / "checkpoint_4.pth", corpus.base)
    assert found.next_command.startswith(f"{RECIPE_COMMAND} --checkpoint {tmp_path / 'checkpoint_3.pth'}")


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        pytest.param(put(math.nan, "model", MEL_HEAD, (3, 3)), "gpt.mel_head.weight", id="weight"),
        pytest.param(put(math.inf, "optimizer", 0, "state", 2, "exp_avg", ...), "exp_avg of parameter 2", id="moment"),
    ],
)
def test_not_finite(healthy, corpus, tmp_path, edit, named):
    found = examine(edited(healthy, tmp_path, edit), corpus.base)
    assert found.verdict == "not-finite"
    assert named in found.reason
    json.loads(json.dumps(found.to_dict(), allow_nan=False))


def test_same_size_another_tokenizer(healthy, corpus, tmp_path):
    """A size check would miss this: tokens are compared with those recorded in the checkpoint or in its vocabulary."""
    tokens = sorted(load_vocabulary(corpus.vocab).tokens.items(), key=lambda item: item[1])
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "vocab.json", exchange={tokens[-1][0]: tokens[-9][0]})
    found = examine(healthy, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "2 tokens moved to a different id: " in found.reason


def test_rows_of_other_tokens(healthy_stock, corpus, tmp_path):
    """Only the rows show which vocabulary it had: they are compared with the base's."""
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "anew.json", exchange={"a": "b", "[en]": "[es]"})
    file = edited(healthy_stock, tmp_path, naming_no_vocabulary)
    assert examine(file, corpus.base, corpus.vocab).verdict == "healthy"
    found = examine(file, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "4 rows resemble those of different tokens in the base" in found.reason
    assert found.also == {}
    assert found.measurements["old_rows"]["changed"] < base_rows(corpus)


def test_a_vocabulary_with_a_token_less(healthy, corpus, tmp_path):
    last = max(load_vocabulary(corpus.vocab).tokens.items(), key=lambda item: item[1])[0]
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "smaller.json", remove=[last])
    found = examine(healthy, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "1 token removed" in found.reason
    assert "--on-vocab-change migrate" in found.next_command


def test_a_checkpoint_with_a_row_more(healthy_stock, corpus, tmp_path):
    """Without a recorded vocabulary, only the number of rows is compared."""
    last = max(load_vocabulary(corpus.vocab).tokens.items(), key=lambda item: item[1])[0]
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "smaller.json", remove=[last])
    file = edited(healthy_stock, tmp_path, naming_no_vocabulary)
    found = examine(file, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "has 549 tokens, but the checkpoint has 550 token rows" in found.reason


def test_a_vocabulary_of_another_size_beside_a_stock_file(healthy_stock, corpus, tmp_path):
    file = edited(healthy_stock, tmp_path, naming_no_vocabulary)
    changed_vocabulary(corpus.vocab, tmp_path / "vocab.json", add=["፨፨"])
    found = examine(file, corpus.base)
    assert found.verdict == "wrong-vocabulary"
    assert "has 551 tokens and does not match" in found.reason


@pytest.fixture(scope="module")
def with_token_moments(healthy_stock, corpus):
    """A function that turns a change of moments into an edit of all token rows' moments."""
    opened = open_checkpoint_with_base(healthy_stock, corpus.base, None)
    moments = moments_by_name(opened)
    numbers = {id(state): number for number, state in opened.content["optimizer"][0]["state"].items()}
    token_numbers = [numbers[id(moments[name])] for name in TOKEN_TENSORS]

    def changed(change):
        def edit(content):
            for number in token_numbers:
                state = content["optimizer"][0]["state"][number]
                state |= {key: change(state[key]) for key in ("exp_avg", "exp_avg_sq")}

        return edit

    return changed


def test_moments_with_a_row_more(healthy_stock, with_token_moments, corpus, tmp_path):
    grown = with_token_moments(lambda rows: torch.cat([rows, rows[:1]]))
    found = examine(edited(healthy_stock, tmp_path, grown), corpus.base)
    assert found.verdict == "wrong-vocabulary"
    assert "exp_avg of text_embedding.weight has shape (551, 64), expected (550, 64)" in found.reason


def test_moments_of_other_rows(healthy_stock, with_token_moments, corpus, tmp_path):
    rolled = with_token_moments(lambda rows: rows.roll(7, dims=0))
    found = examine(edited(healthy_stock, tmp_path, rolled), corpus.base)
    assert found.verdict == "wrong-vocabulary"
    assert "have moments but never moved" in found.reason
    assert f" --start-fresh --base-dir {corpus.base} --vocab '{corpus.vocab}' --language " in found.next_command


def test_frozen_rows_that_differ_from_the_base(short_run, corpus, tmp_path):
    found = examine(edited(short_run / "checkpoint_4.pth", tmp_path, nudged(HEAD, 5, 0)), corpus.base)
    assert found.verdict == "old-rows-drifted"
    assert found.reason.startswith(f"1 of {base_rows(corpus)} old rows differ from the base's")
    assert "repair" in found.next_command


@pytest.mark.slow
def test_rows_of_a_stock_run_that_moved_far(healthy_stock, corpus, tmp_path):
    """The rows are moved by random steps of a known length."""
    found = examine(edited(healthy_stock, tmp_path / "stock", rows_moved_by(0.3)), corpus.base)
    assert found.verdict == "old-rows-drifted"
    assert "The run trained all rows" in found.reason
    assert found.measurements["old_rows"]["moved_embedding"] == pytest.approx(0.3, abs=0.01)


@pytest.mark.slow
def test_rows_of_our_run_that_moved_far(corpus, recipe, tmp_path):
    """The learning rate is far too high."""
    flags = {"no_freeze_base_rows": True, "learning_rate": 0.08, "max_steps": 8, "val_manifest": None}
    recipe(corpus.flags(output_dir=tmp_path / "ours", **flags))
    found = examine(only_run(tmp_path / "ours"), corpus.base)
    assert found.verdict == "old-rows-drifted"
    assert "The run trained all rows" in found.reason


@pytest.mark.slow
def test_rows_behind_a_hook(corpus, recipe, tmp_path, monkeypatch):
    """A hook zeroes the gradient of old rows, but weight decay still moves those of the head."""
    from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer

    load_base = ExtendedGPTTrainer.load_base

    def hooked(model, weights, rows):
        load_base(model, weights, rows)
        for parameter in (model.xtts.gpt.text_embedding.weight, model.xtts.gpt.text_head.weight):
            parameter.register_hook(lambda gradient: torch.cat([torch.zeros_like(gradient[:rows]), gradient[rows:]]))

    monkeypatch.setattr(ExtendedGPTTrainer, "load_base", hooked)
    recipe(corpus.flags(output_dir=tmp_path, val_manifest=None, max_steps=3, no_freeze_base_rows=True))
    found = examine(only_run(tmp_path), corpus.base)
    assert found.verdict == "old-rows-drifted"
    assert f"A gradient hook zeroed the gradients of {base_rows(corpus)} old rows" in found.reason


def test_rows_of_noise(stock_file, corpus):
    """Stock's own initialization, with a learning rate so high that old rows moved as well."""
    found = examine(stock_file, corpus.base)
    assert found.verdict == "new-rows-untrained"
    assert found.measurements["new_rows"]["norm_head"] > 5
    # Stock copies the base's last row into the last new one.
    assert found.measurements["new_rows"]["noise"] == 149
    assert found.next_command.endswith("--reinit-untrained")


def test_rows_of_noise_in_healthy_files(stock_file, healthy, corpus, tmp_path):
    stock = torch.load(stock_file, weights_only=True)["model"]
    noise = with_rows_of(stock, (EMBEDDING, HEAD), slice(base_rows(corpus), None))
    found = examine(edited(healthy, tmp_path, noise), corpus.base)
    assert (found.verdict, found.also) == ("new-rows-untrained", {})
    assert found.measurements["new_rows"]["noise"] == 149


@pytest.mark.slow
def test_rows_that_never_moved(corpus, recipe, tmp_path):
    """The run names a new language but trains on English only."""
    manifest = f"{corpus.english}:en"
    recipe(corpus.flags(output_dir=tmp_path, val_manifest=None, train_manifest=manifest, epochs=6, save_step=4))
    found = examine(only_run(tmp_path), corpus.base)
    assert found.verdict == "new-rows-untrained"
    assert "None of the 150 new rows moved in 12 updates" in found.reason


def test_tokens_that_can_never_be_produced(corpus, recipe, tmp_path):
    """The vocabulary has words without merges."""
    words = [f"ቃል{letter}{other}" for letter in "አለመሠረሰሸቀበ" for other in "ተቸነኘከወዘየደገ"]
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "vocab.json", add=[*words, *(word + "ሀ" for word in words)])
    recipe(corpus.flags(output_dir=tmp_path / "runs", vocab=vocab, val_manifest=None, max_steps=1))
    found = examine(only_run(tmp_path / "runs"), corpus.base)
    assert found.verdict == "new-rows-untrained"
    assert f"can never produce {2 * len(words)} of {150 + 2 * len(words)} new tokens" in found.reason


def test_the_first_of_several_verdicts_wins_and_the_others_are_listed(stock_file, corpus, tmp_path):
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "bigger.json", add=["፨፨"])
    edits = (put(math.inf, "model", MEL_HEAD, (0, 0)), drifted_rows(base_rows(corpus)))
    found = examine(edited(stock_file, tmp_path / "edited", *edits), corpus.base, vocab)
    assert found.verdict == "not-finite"
    assert list(found.also) == ["wrong-vocabulary", "old-rows-drifted", "new-rows-untrained"]
    assert list(VERDICTS) == [
        "truncated", "not-finite", "wrong-vocabulary", "old-rows-drifted", "new-rows-untrained", "diverged",
        "overfitted",
    ]  # fmt: skip


def test_a_transformer_that_diverged(healthy, corpus, tmp_path):
    found = examine(edited(healthy, tmp_path, wrecked), corpus.base)
    assert found.verdict == "diverged"
    assert "The transformer layers moved by " in found.reason


@pytest.mark.slow
def test_a_run_that_is_not_finite_resumes_from_an_earlier_intact_checkpoint(short_run, corpus, tmp_path):
    def add(step, *edits):
        file = edited(short_run / "checkpoint_4.pth", tmp_path / f"from {step}", at_step(step), *edits)
        return file.replace(tmp_path / f"checkpoint_{step}.pth")

    not_finite = put(math.nan, "model", MEL_HEAD, ...)
    add(1), add(2, not_finite), add(4)
    found = examine(add(3, not_finite), corpus.base)
    assert found.verdict == "not-finite"
    assert "checkpoint_1.pth' --grad-clip" in found.next_command or "checkpoint_1.pth --grad" in found.next_command
    # In a folder, the newest intact checkpoint is examined, and newer ones are named.
    (tmp_path / "checkpoint_5.pth").write_bytes(b"PK half")
    found = examine(tmp_path, corpus.base)
    assert found.verdict == "healthy"
    assert found.notes == ["checkpoint_5.pth is newer but cannot be used. The warning about it gives the reason."]


def test_without_new_tokens(corpus, recipe, tmp_path):
    """Plain fine-tuning has no new rows."""
    flags = {"vocab": None, "language": "en", "train_manifest": f"{corpus.english}:en", "val_manifest": None}
    recipe(corpus.flags(output_dir=tmp_path, max_steps=1, learning_rate=1e-5, **flags))
    found = examine(only_run(tmp_path), corpus.base)
    assert (found.verdict, found.measurements["new_rows"]) == ("healthy", None)


def test_another_base_of_the_same_size(short_run, corpus, tmp_path):
    other = edited(corpus.base / "model.pth", tmp_path, drawn_again)
    with pytest.raises(CheckpointError, match="the run did not start from this base"):
        examine(short_run, other)


def test_a_base_with_a_value_that_is_not_finite(short_run, corpus, tmp_path):
    base = edited(corpus.base / "model.pth", tmp_path, put(math.nan, "model", "gpt.mel_head.weight", (0, 0)))
    with pytest.raises(CheckpointError, match=r"The base .* contains NaN or infinity \(gpt.mel_head.weight\)"):
        examine(short_run, base)


@pytest.mark.parametrize(
    "edit",
    [without("model", HEAD), put(torch.zeros(3, 64), "model", PREFIX + "text_pos_embedding.emb.weight")],
    ids=["no head", "another shape"],
)
def test_checkpoints_with_other_tensors_than_the_base_are_refused(healthy, corpus, tmp_path, edit):
    file = edited(healthy, tmp_path, edit)
    with pytest.raises(CheckpointError, match="differ in the names or shapes of 1 tensors"):
        examine(file, corpus.base)


def with_a_bare_optimizer(content):
    content["optimizer"] = content["optimizer"][0]


@pytest.mark.parametrize(
    "edit",
    [put("text", "config"), with_a_bare_optimizer, without("config")],
    ids=["config is text", "optimizer is no list", "no config"],
)
def test_odd_files_are_examined(healthy, corpus, tmp_path, edit):
    assert examine(edited(healthy, tmp_path, edit), corpus.base).verdict == "healthy"


####################
# COMMAND
####################


def test_the_command(short_run, stock_file, corpus, capsys):
    assert main(["inspect", str(short_run), "--base", str(corpus.base), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "healthy"
    assert found["checkpoint"]["step"] == 4
    assert main(["inspect", str(stock_file), "--base", str(corpus.base / "model.pth")]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("new-rows-untrained: 149 of 150 new rows are noise")
    assert "\nnext: xtts-extend repair " in printed


@pytest.mark.parametrize("flags", [["--vocab", "v.json"], ["--base", "nowhere"]])
def test_wrong_use_of_the_command(short_run, capsys, flags):
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(short_run), *flags])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
