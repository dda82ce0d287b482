"""The doctor's verdicts, on files of coqui's Trainer and of ours."""

import json
import math
import shutil

import pytest
import torch
from runs import base_rows, changed_vocabulary, edited, only_run

from xtts_extend.cli import main
from xtts_extend.errors import CheckpointError
from xtts_extend.model.embedding import TOKEN_TENSORS
from xtts_extend.rescue.doctor import VERDICTS, examine
from xtts_extend.rescue.patient import moments_by_name, open_patient
from xtts_extend.text.vocabulary import load_vocabulary

PREFIX = "xtts.gpt."
RECIPE_COMMAND = "python recipes/new_language/train_gpt_xtts.py"
EMBEDDING, HEAD, BIAS = (PREFIX + name for name in TOKEN_TENSORS)


####################
# ILL
####################


@pytest.mark.parametrize("how", ["cut", "empty", "zeros", pytest.param("a bit", marks=pytest.mark.slow)])
def test_truncated(healthy, corpus, tmp_path, how):
    content = bytearray(healthy.read_bytes())
    if how == "a bit":
        content[len(content) // 2] ^= 1
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(len(content)), "a bit": content}[how]
    (tmp_path / "checkpoint_4.pth").write_bytes(damaged)
    found = examine(tmp_path / "checkpoint_4.pth", corpus.base)
    assert found.verdict == "truncated"
    assert found.next_command.startswith(f"{RECIPE_COMMAND} --base-dir {corpus.base} --vocab ")
    shutil.copyfile(healthy, tmp_path / "checkpoint_3.pth")
    found = examine(tmp_path / "checkpoint_4.pth", corpus.base)
    assert found.next_command.startswith(f"{RECIPE_COMMAND} --checkpoint {tmp_path / 'checkpoint_3.pth'}")


@pytest.mark.parametrize("where", ["weight", "moment"])
def test_not_finite(healthy, corpus, tmp_path, where):
    def spoil(content):
        if where == "weight":
            content["model"][PREFIX + "mel_head.weight"][3, 3] = math.nan
        else:
            content["optimizer"][0]["state"][2]["exp_avg"].fill_(math.inf)

    found = examine(edited(healthy, tmp_path, spoil), corpus.base)
    assert found.verdict == "not-finite"
    assert ("gpt.mel_head.weight" if where == "weight" else "exp_avg of parameter 2") in found.reason
    json.loads(json.dumps(found.to_dict(), allow_nan=False))


def test_same_size_another_tokenizer(healthy, corpus, tmp_path):
    """No size check notices: the tokens are compared, with those recorded in the file or in the file that it names."""
    tokens = sorted(load_vocabulary(corpus.vocab).tokens.items(), key=lambda item: item[1])
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "vocab.json", exchange={tokens[-1][0]: tokens[-9][0]})
    found = examine(healthy, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "2 tokens moved to another id: " in found.reason


def test_rows_of_other_tokens(healthy_stock, corpus, tmp_path):
    """Nothing but the rows tells which vocabulary it had: they are compared with the base's."""
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "anew.json", exchange={"a": "b", "[en]": "[es]"})
    file = edited(healthy_stock, tmp_path, lambda content: content["config"]["model_args"].pop("tokenizer_file"))
    assert examine(file, corpus.base, corpus.vocab).verdict == "healthy"
    found = examine(file, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "4 rows resemble those of other tokens in the base" in found.reason
    assert found.also == {}
    assert found.measurements["old_rows"]["changed"] < base_rows(corpus)


def test_a_token_too_many(healthy, corpus, tmp_path):
    last = max(load_vocabulary(corpus.vocab).tokens.items(), key=lambda item: item[1])[0]
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "smaller.json", remove=[last])
    found = examine(healthy, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "1 token removed" in found.reason
    assert "--on-vocab-change migrate" in found.next_command
    if "xtts-" in str(healthy):
        return
    file = edited(healthy, tmp_path, lambda content: content["config"]["model_args"].pop("tokenizer_file"))
    found = examine(file, corpus.base, vocab)
    assert found.verdict == "wrong-vocabulary"
    assert "has 549 tokens, and the checkpoint 550 rows" in found.reason


def test_a_vocabulary_of_another_size_beside_a_stock_file(healthy_stock, corpus, tmp_path):
    file = edited(healthy_stock, tmp_path, lambda content: content["config"]["model_args"].pop("tokenizer_file"))
    changed_vocabulary(corpus.vocab, tmp_path / "vocab.json", add=["፨፨"])
    found = examine(file, corpus.base)
    assert found.verdict == "wrong-vocabulary"
    assert "has 551 tokens and is not it" in found.reason


def test_moments_of_other_rows(healthy_stock, corpus, tmp_path):
    """One with a token more, and one whose rows were moved by one."""
    patient = open_patient(healthy_stock, corpus.base, None)
    moments = moments_by_name(patient)
    grown, rolled = (json.loads("{}") for _ in range(2))
    numbers = {id(state): number for number, state in patient.content["optimizer"][0]["state"].items()}
    for name in TOKEN_TENSORS:
        number = numbers[id(moments[name])]
        for key in ("exp_avg", "exp_avg_sq"):
            rows = moments[name][key]
            grown[number, key] = torch.cat([rows, rows[:1]])
            rolled[number, key] = rows.roll(7, dims=0)

    def with_moments(given):
        def edit(content):
            for (number, key), rows in given.items():
                content["optimizer"][0]["state"][number][key] = rows

        return edit

    found = examine(edited(healthy_stock, tmp_path / "grown", with_moments(grown)), corpus.base)
    assert found.verdict == "wrong-vocabulary"
    assert "exp_avg of text_embedding.weight has shape (551, 64), the weight (550, 64)" in found.reason
    found = examine(edited(healthy_stock, tmp_path / "rolled", with_moments(rolled)), corpus.base)
    assert found.verdict == "wrong-vocabulary"
    assert "have moments and never moved" in found.reason
    assert f" --start-fresh --base-dir {corpus.base} --vocab '{corpus.vocab}' --language " in found.next_command


def test_frozen_rows_that_are_not_the_bases(short_run, corpus, tmp_path):
    def move(content):
        content["model"][HEAD][5, 0] += 1e-6

    found = examine(edited(short_run / "checkpoint_4.pth", tmp_path, move), corpus.base)
    assert found.verdict == "old-rows-drifted"
    assert found.reason.startswith(f"1 of {base_rows(corpus)} old rows differ from the base's")
    assert "repair" in found.next_command


@pytest.mark.slow
def test_rows_that_moved_far(healthy_stock, corpus, recipe, tmp_path):
    """Of a stock run, by random steps of a known length; of ours, at a rate far too high."""

    def move(content):
        generator = torch.Generator().manual_seed(0)
        for key in (EMBEDDING, HEAD):
            rows = content["model"][key]
            noise = torch.randn(rows.shape, generator=generator)
            rows += 0.3 * rows.norm(dim=1, keepdim=True) * noise / noise.norm(dim=1, keepdim=True)

    found = examine(edited(healthy_stock, tmp_path / "stock", move), corpus.base)
    assert found.verdict == "old-rows-drifted"
    assert "the run trained all rows" in found.reason
    assert found.measurements["old_rows"]["moved_embedding"] == pytest.approx(0.3, abs=0.01)
    flags = {"no_freeze_base_rows": True, "learning_rate": 0.08, "max_steps": 8, "val_manifest": None}
    recipe(corpus.flags(output_dir=tmp_path / "ours", **flags))
    found = examine(only_run(tmp_path / "ours"), corpus.base)
    assert found.verdict == "old-rows-drifted"
    assert "the run trained all rows" in found.reason


def test_rows_behind_a_hook(corpus, recipe, tmp_path, monkeypatch):
    """A hook that zeroes the gradient of old rows; weight decay moves those of the head all the same."""
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
    assert f"the gradient of {base_rows(corpus)} old rows was zeroed (a hook)" in found.reason


def test_rows_of_noise(stock_file, healthy, corpus, tmp_path):
    """Stock's own start, at a rate so high that old rows moved as well; and the same rows put into healthy files."""
    found = examine(stock_file, corpus.base)
    assert found.verdict == "new-rows-untrained"
    assert found.measurements["new_rows"]["norm_head"] > 5
    # the last new row has the values of the base's last one
    assert found.measurements["new_rows"]["noise"] == 149
    assert found.next_command.endswith("--reinit-untrained")
    noise = torch.load(stock_file, weights_only=True)["model"]

    def spoil(content):
        for key in (EMBEDDING, HEAD):
            content["model"][key][base_rows(corpus) :] = noise[key][base_rows(corpus) :]

    found = examine(edited(healthy, tmp_path, spoil), corpus.base)
    assert (found.verdict, found.also) == ("new-rows-untrained", {})
    assert found.measurements["new_rows"]["noise"] == 149


def test_rows_that_never_moved(corpus, recipe, tmp_path):
    """A language is named, and its speech is never trained on: only English is."""
    manifest = f"{corpus.english}:en"
    recipe(corpus.flags(output_dir=tmp_path, val_manifest=None, train_manifest=manifest, epochs=6, save_step=4))
    found = examine(only_run(tmp_path), corpus.base)
    assert found.verdict == "new-rows-untrained"
    assert "none of the 150 new rows has moved in 12 updates" in found.reason


def test_tokens_that_can_never_be_given(corpus, recipe, tmp_path):
    """Whole words without merges."""
    words = [f"ቃል{letter}{other}" for letter in "አለመሠረሰሸቀበ" for other in "ተቸነኘከወዘየደገ"]
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "vocab.json", add=[*words, *(word + "ሀ" for word in words)])
    recipe(corpus.flags(output_dir=tmp_path / "runs", vocab=vocab, val_manifest=None, max_steps=1))
    found = examine(only_run(tmp_path / "runs"), corpus.base)
    assert found.verdict == "new-rows-untrained"
    assert f"{2 * len(words)} of {150 + 2 * len(words)} new tokens can never be given" in found.reason


def test_the_first_of_several_verdicts_counts_and_the_others_are_listed(stock_file, corpus, tmp_path):
    def spoil(content):
        content["model"][PREFIX + "mel_head.weight"][0, 0] = math.inf
        content["model"][EMBEDDING][: base_rows(corpus)] += 2

    vocab = changed_vocabulary(corpus.vocab, tmp_path / "bigger.json", add=["፨፨"])
    found = examine(edited(stock_file, tmp_path / "ill", spoil), corpus.base, vocab)
    assert found.verdict == "not-finite"
    assert list(found.also) == ["wrong-vocabulary", "old-rows-drifted", "new-rows-untrained"]
    assert list(VERDICTS) == [
        "truncated", "not-finite", "wrong-vocabulary", "old-rows-drifted", "new-rows-untrained", "diverged",
        "overfitted",
    ]  # fmt: skip


def test_a_transformer_that_was_wrecked(healthy, corpus, tmp_path):
    def wreck(content):
        for key, tensor in content["model"].items():
            if ".gpt.h." in key and key.endswith("weight"):
                tensor += 2 * tensor.norm() / tensor.numel() ** 0.5 * torch.randn(tensor.shape)

    found = examine(edited(healthy, tmp_path, wreck), corpus.base)
    assert found.verdict == "diverged"
    assert "the layers of the transformer moved by " in found.reason


def test_the_way_on_from_what_is_not_finite_is_an_earlier_sound_checkpoint(short_run, corpus, tmp_path):
    def at(step, value=None):
        def edit(content):
            content["step"] = step
            if value:
                content["model"][PREFIX + "mel_head.weight"].fill_(value)

        (tmp_path / f"from {step}").mkdir()
        file = edited(short_run / "checkpoint_4.pth", tmp_path / f"from {step}", edit)
        return file.replace(tmp_path / f"checkpoint_{step}.pth")

    at(1), at(2, math.nan), at(4)
    found = examine(at(3, math.nan), corpus.base)
    assert found.verdict == "not-finite"
    assert "checkpoint_1.pth' --grad-clip" in found.next_command or "checkpoint_1.pth --grad" in found.next_command
    # of a folder the newest sound one counts, and a newer one is named
    (tmp_path / "checkpoint_5.pth").write_bytes(b"PK half")
    found = examine(tmp_path, corpus.base)
    assert found.verdict == "healthy"
    assert found.notes == ["checkpoint_5.pth is newer, and cannot be used: see the warning"]


def test_without_new_tokens(corpus, recipe, tmp_path):
    """Plain fine-tuning: there is no new row to look at."""
    flags = {"vocab": None, "language": "en", "train_manifest": f"{corpus.english}:en", "val_manifest": None}
    recipe(corpus.flags(output_dir=tmp_path, max_steps=1, learning_rate=1e-5, **flags))
    found = examine(only_run(tmp_path), corpus.base)
    assert (found.verdict, found.measurements["new_rows"]) == ("healthy", None)


def test_a_base_of_the_same_size_that_is_another(short_run, corpus, tmp_path):
    content = torch.load(corpus.base / "model.pth", weights_only=True)
    torch.manual_seed(0)
    content["model"] = {
        key: torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for key, tensor in content["model"].items()
    }
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="did not come from this base"):
        examine(short_run, tmp_path / "model.pth")


def test_a_base_with_a_value_that_is_no_number(short_run, corpus, tmp_path):
    content = torch.load(corpus.base / "model.pth", weights_only=True)
    content["model"]["gpt.mel_head.weight"][0, 0] = math.nan
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"The base .* holds NaN or infinity \(gpt.mel_head.weight\)"):
        examine(short_run, tmp_path / "model.pth")


def odd(how):
    def edit(content):
        if how == "no head":
            del content["model"][HEAD]
        elif how == "another shape":
            content["model"][PREFIX + "text_pos_embedding.emb.weight"] = torch.zeros(3, 64)
        elif how == "config is text":
            content["config"] = "text"
        elif how == "optimizer is no list":
            content["optimizer"] = content["optimizer"][0]
        elif how == "no config":
            del content["config"]

    return edit


@pytest.mark.parametrize("how", ["no head", "another shape", "config is text", "optimizer is no list", "no config"])
def test_odd_files_are_examined_or_refused_in_words(healthy, corpus, tmp_path, how):
    file = edited(healthy, tmp_path, odd(how))
    if how in ("no head", "another shape"):
        with pytest.raises(CheckpointError, match="differ in 1 tensors or their shapes"):
            examine(file, corpus.base)
        return
    found = examine(file, corpus.base)
    assert found.verdict == "healthy"


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
