"""Repaired copies have the base's rows bit for bit, blends and re-initialized rows; they resume and export."""

import json
import math
import re
import shutil

import pytest
import torch
from checkpoints import (
    EMBEDDING,
    HEAD,
    MEL_HEAD,
    PREFIX,
    as_it_was,
    cut,
    drifted_rows,
    edited,
    naming_vocabulary,
    put,
    with_prefix,
    without,
    wrecked,
)
from networks import base_weights
from runs import base_rows, changed_vocabulary, checkpoint, only_run

from xtts_extend.cli import main
from xtts_extend.errors import CheckFailed, CheckpointError, ConfigError, DamagedError
from xtts_extend.model.embedding import TOKEN_TENSORS, extend_token_tensors
from xtts_extend.rescue.doctor import examine
from xtts_extend.rescue.opened_checkpoint import moments_by_name, open_checkpoint_with_base
from xtts_extend.rescue.repair import repair
from xtts_extend.run.recorded import TrainingCheckpoint
from xtts_extend.speech.export import export
from xtts_extend.text.vocabulary import load_vocabulary, romanized_spellings

not_finite = put(math.nan, "model", MEL_HEAD, ...)


@pytest.fixture(scope="module")
def drifted(corpus, recipe, tmp_path_factory):
    """A run of ours that trained all rows at a learning rate far too high."""
    output = tmp_path_factory.mktemp("drifted")
    flags = {"no_freeze_base_rows": True, "learning_rate": 0.03, "max_steps": 5, "val_manifest": None}
    recipe(corpus.flags(output_dir=output, **flags))
    return only_run(output) / "checkpoint_5.pth"


@pytest.fixture(params=["ours", "stock"])
def broken_file(request):
    return request.getfixturevalue("drifted" if request.param == "ours" else "stock_file")


def test_old_rows_become_the_bases_and_everything_else_is_unchanged(broken_file, corpus, tmp_path):
    content = broken_file.read_bytes()
    done = repair(broken_file, corpus.base, tmp_path / "repaired")
    assert broken_file.read_bytes() == content
    (file,) = (tmp_path / "repaired").glob("checkpoint_*.pth")
    old, new = (torch.load(path, weights_only=True) for path in (broken_file, file))
    base = base_weights(corpus.base)
    rows = base["gpt.text_head.bias"].shape[0]
    for key, tensor in new["model"].items():
        name = key.removeprefix(PREFIX)
        if name in TOKEN_TENSORS:
            assert torch.equal(tensor[:rows], base[f"gpt.{name}"])
            assert not torch.equal(old["model"][key][:rows], base[f"gpt.{name}"])
            assert torch.equal(tensor[rows:], old["model"][key][rows:])
        else:
            assert torch.equal(tensor, old["model"][key]), key
    before = moments_by_name(open_checkpoint_with_base(broken_file, corpus.base, None))
    after = moments_by_name(open_checkpoint_with_base(file, corpus.base, None))
    assert len(after) == len(new["optimizer"][0]["state"]) == len(before)
    for name, state in after.items():
        for key in ("exp_avg", "exp_avg_sq"):
            was, now = before[name][key], state[key]
            if name in TOKEN_TENSORS:
                assert was[:rows].any()
                # In our runs these rows are now frozen and have no moments.
                now = now if len(now) == len(was) else torch.cat([torch.zeros_like(was[:rows]), now])
                was = was.clone()
                was[:rows] = 0
            assert torch.equal(now, was)
        assert torch.equal(state["step"], before[name]["step"])
    assert (new["step"], new["epoch"]) == (old["step"], old["epoch"])
    assert (done["old_rows_restored"], done["moments_zeroed"], done["reinitialised_rows"]) == (rows, rows, 0)
    found = examine(file, corpus.base)
    assert "old-rows-drifted" not in {found.verdict, *found.also}


@pytest.mark.parametrize(
    ("broken_file", "options"),
    [
        # At this learning rate the transformer moved far, too.
        pytest.param("ours", {"blend": 0.9}, id="ours"),
        pytest.param("stock", {"reinit_untrained": True}, id="stock", marks=pytest.mark.slow),
    ],
    indirect=["broken_file"],
)
def test_the_repaired_run_resumes_frozen_and_exports(broken_file, options, corpus, recipe, tmp_path, caplog):
    caplog.set_level("INFO", "trainer")
    repair(broken_file, corpus.base, tmp_path / "repaired", **options)
    assert examine(tmp_path / "repaired", corpus.base).verdict == "healthy"
    # The folder is a run of ours, whichever trainer wrote the original.
    run = tmp_path / "repaired"
    flags = ["--checkpoint", run, "--max-steps", 8, "--learning-rate", 0.001, "--allow-changes"]
    recipe([*flags, "--base-dir", corpus.base, "--language", "am", "--train-manifest", corpus.train])
    assert "belongs to a run of others" not in caplog.text
    rows = base_rows(corpus)
    assert f"Tokens 0–{rows - 1} come from the base (pretrained, frozen)" in caplog.text
    final, base = checkpoint(run, 8), base_weights(corpus.base)
    for name in TOKEN_TENSORS:
        assert torch.equal(final["model"][PREFIX + name][:rows], base[f"gpt.{name}"])
    assert final["xtts_extend"]["base_rows"]["frozen"]
    assert final["config"]["freeze_base_rows"]
    done = export(run, tmp_path / "model", corpus.base, merged=True)
    assert done["base_rows_checked"]
    assert examine(run, corpus.base).verdict == "healthy"


def test_a_repaired_stock_run_is_ours_only_if_it_gets_its_own_folder(stock_file, corpus, tmp_path):
    """A repaired file may be in another trainer's folder."""
    repair(stock_file, corpus.base, tmp_path / "repaired")
    repair(tmp_path / "repaired", corpus.base, tmp_path / "repaired.pth")
    files = (stock_file, tmp_path / "repaired" / stock_file.name, tmp_path / "repaired.pth")
    assert [TrainingCheckpoint.open(file).is_stock_run for file in files] == [True, False, True]


def test_a_blend(broken_file, corpus, tmp_path):
    done = repair(broken_file, corpus.base, tmp_path / "blended.pth", blend=0.3)
    old, new = (torch.load(file, weights_only=True)["model"] for file in (broken_file, tmp_path / "blended.pth"))
    base = base_weights(corpus.base)
    blended = 0
    for key, tensor in new.items():
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX):
            assert torch.equal(tensor, old[key])
        elif name not in TOKEN_TENSORS:
            assert torch.equal(tensor, torch.lerp(old[key], base[f"gpt.{name}"], 0.3)), key
            blended += 1
    assert done["blended_tensors"] == blended > 20
    repair(broken_file, corpus.base, tmp_path / "all base.pth", blend=1)
    for key, tensor in torch.load(tmp_path / "all base.pth", weights_only=True)["model"].items():
        name = key.removeprefix(PREFIX)
        if key.startswith(PREFIX) and name not in TOKEN_TENSORS:
            assert torch.equal(tensor, base[f"gpt.{name}"])


@pytest.mark.slow
def test_rows_of_noise_are_reinitialized(stock_file, corpus, tmp_path):
    done = repair(stock_file, corpus.base, tmp_path / "repaired", reinit_untrained=True)
    assert done["reinitialised_rows"] == 149
    new, base = (
        torch.load(tmp_path / "repaired" / stock_file.name, weights_only=True)["model"],
        base_weights(corpus.base),
    )
    before = torch.load(stock_file, weights_only=True)["model"]
    old, extended = load_vocabulary(corpus.base / "vocab.json"), load_vocabulary(corpus.vocab)
    start = extend_token_tensors(base, extended.size, "romanized", romanized_spellings(old, extended), seed=1)
    for name in TOKEN_TENSORS:
        assert torch.equal(new[PREFIX + name][: extended.size - 1], start[f"gpt.{name}"][:-1])
        # Stock copies the base's last row into the last one, so it is not noise and stays unchanged.
        assert torch.equal(new[PREFIX + name][-1], before[PREFIX + name][-1])
    moments = moments_by_name(open_checkpoint_with_base(tmp_path / "repaired", corpus.base, None))
    for name in TOKEN_TENSORS:
        assert not moments[name]["exp_avg_sq"][:-1].any()
    assert examine(tmp_path / "repaired", corpus.base).verdict == "healthy"


def test_only_rows_that_never_moved_are_reinitialized(short_run, corpus, tmp_path):
    """In a run with frozen rows, the moments cover the new rows only."""
    never_moved = examine(short_run, corpus.base).measurements["new_rows"]["never_moved"]
    done = repair(short_run, corpus.base, tmp_path / "repaired", reinit_untrained=True)
    assert done["reinitialised_rows"] == never_moved > 0
    before, new = (checkpoint(run, 4) for run in (short_run, tmp_path / "repaired"))
    assert torch.equal(new["model"][EMBEDDING], before["model"][EMBEDDING])
    # Rows of the head get a gradient even if their token never occurs.
    assert not torch.equal(new["model"][HEAD], before["model"][HEAD])


@pytest.mark.slow
def test_a_repaired_run_with_reinitialized_rows_is_healthy(corpus, recipe, tmp_path):
    manifest = f"{corpus.english}:en"
    recipe(corpus.flags(output_dir=tmp_path / "a", val_manifest=None, train_manifest=manifest, epochs=6))
    run = only_run(tmp_path / "a")
    assert examine(run, corpus.base).verdict == "new-rows-untrained"
    assert repair(run, corpus.base, tmp_path / "repaired", reinit_untrained=True)["reinitialised_rows"] == 150
    found = examine(tmp_path / "repaired", corpus.base)
    assert found.verdict == "healthy"
    assert "A repair re-initialized 150 new rows" in found.notes[0]


def test_a_compiled_checkpoint_without_settings(short_run, corpus, tmp_path):
    file = edited(short_run / "checkpoint_4.pth", tmp_path / "run", without("config"), with_prefix("_orig_mod."))
    done = repair(file, corpus.base, tmp_path / "repaired")
    assert (done["old_rows"], done["old_rows_restored"], done["frozen_from_here_on"]) == (400, 0, True)
    content = checkpoint(tmp_path / "repaired", 4)
    assert "config" not in content
    assert content["model"].keys() == checkpoint(short_run, 4)["model"].keys()


def test_a_healthy_frozen_run_has_nothing_to_repair(short_run, corpus, tmp_path):
    done = repair(short_run, corpus.base, tmp_path / "repaired")
    assert (done["old_rows_restored"], done["moments_zeroed"], done["reinitialised_rows"]) == (0, 0, 0)
    before, new = (checkpoint(run, 4) for run in (short_run, tmp_path / "repaired"))
    for key, tensor in before["model"].items():
        assert torch.equal(new["model"][key], tensor), key
    assert new["xtts_extend"]["base_rows"] == before["xtts_extend"]["base_rows"]


@pytest.mark.slow
def test_a_plan_writes_nothing(healthy_stock, corpus, tmp_path, capsys):
    drifted = edited(healthy_stock, tmp_path / "drifted", drifted_rows(base_rows(corpus)))
    command = ["repair", str(drifted), "--base", str(corpus.base), "--output", str(tmp_path / "new")]
    assert main([*command, "--blend", "0.3", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "new").exists()
    assert (plan["written"], plan["blend"], plan["old_rows_restored"]) == (False, 0.3, plan["old_rows"])
    assert main([*command, "--blend", "0.3", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (plan.pop("verdict"), plan.pop("pointless")) == ("old-rows-drifted", "")
    assert plan.pop("next").startswith("xtts-extend repair ")
    assert {**done, "written": False} == plan
    files = ["checkpoint_4.pth", "config.json", "vocab.json"]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == files


@pytest.mark.parametrize(
    ("edit", "verdict", "pointless"),
    [
        (as_it_was, "healthy", "There is nothing to repair."),
        (wrecked, "diverged", "The transformer diverged"),
        (not_finite, "not-finite", "Weights that are NaN or infinite cannot be restored."),
    ],
    ids=["healthy", "diverged", "not finite"],
)
def test_a_plan_says_that_a_repair_is_pointless(short_run, corpus, tmp_path, capsys, edit, verdict, pointless):
    file = edited(short_run / "checkpoint_4.pth", tmp_path / "run", edit)
    require_pointless(file, corpus, tmp_path / "new", verdict, pointless, capsys)


def test_a_plan_says_that_a_damaged_file_cannot_be_repaired(short_run, corpus, tmp_path, capsys):
    file = edited(short_run / "checkpoint_4.pth", tmp_path / "run")
    cut(file, 9000)
    require_pointless(file, corpus, tmp_path / "new", "truncated", "A damaged file cannot be repaired.", capsys)


def require_pointless(file, corpus, output, verdict, pointless, capsys):
    """Require a plan with a verdict, the reason why a repair is pointless, and the doctor's next command."""
    assert main(["repair", str(file), "--base", str(corpus.base), "--output", str(output), "--plan", "--json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert (plan["verdict"], plan["written"]) == (verdict, False)
    assert plan["pointless"].startswith(pointless)
    assert plan["next"] == examine(file, corpus.base).next_command


@pytest.mark.slow
def test_a_plan_for_new_rows_of_noise(stock_file, corpus, tmp_path, capsys):
    """Restoring old rows does not help new ones."""
    command = ["repair", str(stock_file), "--base", str(corpus.base), "--output", str(tmp_path / "new"), "--plan"]
    assert main(command) == 1
    assert "Without --reinit-untrained, the new rows would remain untrained." in capsys.readouterr().out
    assert main([*command, "--reinit-untrained"]) == 0


def test_a_truncated_file_cannot_be_repaired(drifted, corpus, tmp_path):
    file = shutil.copyfile(drifted, tmp_path / "checkpoint_5.pth")
    cut(file, 100_000)
    with pytest.raises(DamagedError):
        repair(file, corpus.base, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_weight_that_is_not_finite_cannot_be_repaired(drifted, corpus, tmp_path):
    broken = edited(drifted, tmp_path, not_finite)
    with pytest.raises(CheckFailed, match=r"contains NaN or infinity \(gpt\.mel_head\.weight\)"):
        repair(broken, corpus.base, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_rows_of_other_tokens_cannot_be_repaired(stock_file, corpus, tmp_path):
    vocab = changed_vocabulary(corpus.vocab, tmp_path / "vocab.json", exchange={"a": "b"})
    rows = base_weights(corpus.base)["gpt.text_embedding.weight"]
    base_embedding = put(rows, "model", EMBEDDING, slice(len(rows)))
    renumbered = edited(stock_file, tmp_path, naming_vocabulary(vocab), base_embedding)
    with pytest.raises(CheckpointError, match="2 rows of .* belong to different tokens than its vocabulary"):
        repair(renumbered, corpus.base, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("blend", [-0.1, 1.5, math.nan])
def test_a_blend_outside_0_to_1(drifted, corpus, tmp_path, blend):
    with pytest.raises(ConfigError, match="the base's share, from 0 to 1"):
        repair(drifted, corpus.base, tmp_path / "new", blend=blend)


def test_nothing_is_overwritten(drifted, corpus, tmp_path):
    (tmp_path / "there.pth").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    for output in (tmp_path / "there.pth", tmp_path / "folder", drifted, drifted.parent):
        with pytest.raises(ConfigError, match=re.escape(f"{output} already exists")):
            repair(drifted, corpus.base, output)
    assert (tmp_path / "there.pth").read_bytes() == b"mine"
