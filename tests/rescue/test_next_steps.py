"""The doctor's next commands: other weights, a lower learning rate, and the run's recorded settings."""

import json
import math
import shlex
import shutil

import pytest
import torch
from checkpoints import (
    MEL_HEAD,
    as_it_was,
    at_step,
    cut,
    edited,
    put,
    scaled,
    stripped_of,
    weights_alone,
    with_settings,
)
from runs import RECIPE, as_flag, configured, write_metrics

from xtts_extend.rescue import next_steps
from xtts_extend.rescue.doctor import examine
from xtts_extend.run.config import NewLanguageConfig
from xtts_extend.setup.command_line import NOT_CARRIED, flags_of_run
from xtts_extend.setup.start import Mode


def parsed(command):
    """Parse a printed command like a shell and the recipe."""
    program, recipe, *argv = shlex.split(command)
    assert (program, recipe) == ("python", "recipes/new_language/train_gpt_xtts.py")
    assert RECIPE.as_posix().endswith(recipe)
    return configured(argv)


def differences(recorded, config, changed=()):
    """Return the keys whose values differ from the recorded ones; nested keys have dots."""
    now = config.to_dict()
    nested = ("model_args", "audio")
    keys = {*now} - {*nested} | {f"{part}.{key}" for part in nested for key in now[part]}

    def value(values, key):
        for name in key.split("."):
            values = values[name]
        return values

    return {key for key in keys - NOT_CARRIED if value(recorded, key) != value(now, key)} - set(changed)


@pytest.fixture
def reproduced(corpus, tmp_path):
    """A function that records the configuration of some flags and returns the flags that give it again, as a line."""

    def make(*overrides, **flags):
        argv = corpus.flags(output_dir=tmp_path / "Мои модели ሰላም", **flags)
        recorded = json.loads(json.dumps(configured([*argv, *overrides])[1].to_dict()))
        found, left_out = flags_of_run(recorded, corpus.base)
        assert left_out == []
        line = shlex.join(["--base-dir", str(corpus.base), "--vocab", str(corpus.vocab), *found])
        assert differences(recorded, configured(shlex.split(line))[1]) == set()
        return line

    return make


@pytest.mark.parametrize(
    "flags",
    [
        {"batch_size": 3, "grad_accum_steps": 7, "learning_rate": 1.7e-05, "warmup_steps": 21, "amp": "bf16"},
        {"batch_size": None, "batch_frames": 700, "adapter": "lora", "adapter_rank": 4},
        {"language_weights": "am=3.0,en=1.0", "patience": 3, "min_retention": 0.98, "num_workers": 2, "codes": "a b",
         "columns": "text=die Sätze,audio=1"},
        {"no_freeze_base_rows": True, "gradient_checkpointing": True, "epochs": 5},
        {"text_loss_weight": 0.5, "weight_decay": 0.25, "grad_clip": 0.5, "max_minutes": 90.0, "eval_step": 5},
        {"voice": "trained"},
    ],
    ids=["batches", "adapter", "weights", "rows", "losses", "voice"],
)  # fmt: skip
def test_flags_reproduce_recorded_values(reproduced, flags):
    line = reproduced(**flags)
    # Settings that have a flag do not become overrides.
    for flag in [as_flag(key, value)[0] for key, value in flags.items() if value is not None]:
        assert flag in line
    assert "--coqpit." not in line


@pytest.mark.parametrize(
    ("flags", "overrides"),
    [
        ({}, {"model_args.max_text_length": 150, "run_name": "run 'ሀ' $HOME", "eval_batch_size": 9}),
        ({}, {"optimizer_params": '{"betas": [0.8, 0.9]}', "lr_scheduler": "StepLR",
              "lr_scheduler_params": '{"step_size": 2}', "save_checkpoints": "false"}),
        ({"adapter": "lora", "adapter_rank": 4}, {"layer_decay": 0.9}),
        ({"no_freeze_base_rows": True, "epochs": 5}, {"new_row_learning_rate": 0.001, "l2_sp": 2.5}),
    ],
    ids=["overrides", "optimizer", "adapter", "rows"],
)  # fmt: skip
def test_overrides_reproduce_recorded_values(reproduced, flags, overrides):
    line = reproduced(*(f"--coqpit.{key}={value}" for key, value in overrides.items()), **flags)
    for key in overrides:
        assert f"--coqpit.{key}" in line
    assert line.count("--coqpit.") == len(overrides)


def test_a_value_that_looks_like_a_flag_is_an_override(reproduced):
    line = reproduced(seed=-5)
    assert "--coqpit.training_seed=-5" in line
    assert line.count("--coqpit.") == 1


def test_settings_without_a_flag_are_overrides_or_listed(corpus):
    sentences = [{"text": "ሰላም", "language": "am", "speaker_wav": "voices:1/voice.wav"}]
    flags, left_out = flags_of_run({"test_sentences": sentences, "epochs": "many", "lr": None}, corpus.base)
    assert flags == [f"--coqpit.test_sentences={json.dumps(sentences, ensure_ascii=False)}"]
    assert left_out == ["epochs"]
    sentences[0]["speaker_wav"] = "a voice.wav"
    assert flags_of_run({"test_sentences": sentences}, corpus.base)[0] == ["--test-sentence", "am:a voice.wav:ሰላም"]


####################
# DIVERGED
####################

#: Settings without a flag.
OLDER = with_settings(l2_sp=20.0, layer_decay=0.7, new_row_learning_rate=3e-3)


def metrics(folder, *, ran_away_after):
    """Write evaluations before the first step and every 20 steps; the losses are high after a given step."""
    lines = [{"eval": True, "step": 0, "language": "am", "loss": 5.0}]
    for step in range(1, 61):
        high = step > ran_away_after
        lines.append({"step": step, "epoch": 0, "loss": 12.0 if high else 5 - step / 100})
        if step % 20 == 0:
            lines.append({"eval": True, "step": step, "language": "am", "loss": 9.95 if high else 4.0 - step / 100})
    write_metrics(folder, lines)


@pytest.fixture
def wrecked_run(short_run, tmp_path):
    """A run folder, and a function that adds a checkpoint with a given step and scale of weights."""
    folder = tmp_path / "Мой бег"

    settings = with_settings(
        batch_size=3, grad_accum_steps=5, max_steps=99, output_path=str(tmp_path / "my runs"), grad_clip=2.5,
        plot_step=7,
    )  # fmt: skip

    def add(name, step, scale, *more):
        edits = (at_step(step), scaled(scale, MEL_HEAD), settings, *more)
        return edited(short_run / "checkpoint_4.pth", folder, *edits).replace(folder / name)

    folder.mkdir()
    metrics(folder, ran_away_after=20)
    return folder, add


def copy(source, target):
    shutil.copyfile(source, target)


@pytest.mark.parametrize(
    "second_name",
    [lambda source, target: target.hardlink_to(source), pytest.param(copy, marks=pytest.mark.slow)],
    ids=["link", "copy"],
)
def test_the_best_model_of_a_diverged_run(wrecked_run, corpus, second_name):
    """Ours is a second name of `best_model_N.pth`, the stock Trainer's a copy: the next command uses neither."""
    folder, add = wrecked_run
    second_name(add("best_model_40.pth", 40, 1.5), folder / "best_model.pth")
    # An earlier checkpoint that diverged too.
    add("checkpoint_30.pth", 30, 1.2)
    found = examine(folder / "best_model.pth", corpus.base)
    assert found.verdict == "diverged"
    assert (
        found.reason
        == "The evaluation loss was 5.0000 before the first step and is now 9.9500, so training made the model worse."
    )
    start, config = parsed(found.next_command)
    assert (start.mode is Mode.RESUME, start.path) == (False, corpus.base / "model.pth")
    recorded = torch.load(folder / "best_model.pth", weights_only=True)["config"]
    assert config.lr == 1e-4
    assert (config.batch_size, config.grad_accum_steps, config.grad_clip, config.plot_step) == (3, 5, 2.5, 7)
    assert differences(recorded, config, {"lr"}) == set()

    # A healthy one is resumed at a lower learning rate.
    add("checkpoint_20.pth", 20, 1.0)
    flags = f"--checkpoint '{folder / 'checkpoint_20.pth'}' --learning-rate 0.0001 --new-run --allow-changes"
    found = examine(folder / "best_model.pth", corpus.base)
    assert found.next_command.endswith(flags)
    start, config = parsed(found.next_command)
    assert (start.mode is Mode.RESUME, start.path.name, config.lr) == (True, "checkpoint_20.pth", 1e-4)
    assert differences(recorded, config, {"lr"}) == set()


@pytest.mark.slow
def test_the_same_weights_damaged_files_and_bases_are_not_suggested(wrecked_run, corpus):
    folder, add = wrecked_run
    file = add("best_model_40.pth", 40, 1.5)
    add("checkpoint_20.pth", 20, 1.5)
    add("checkpoint_19.pth", 19, math.nan)
    (folder / "checkpoint_18.pth").write_bytes(b"PK half")
    add("checkpoint_17.pth", 17, 1.0, weights_alone)
    assert "--checkpoint" not in examine(file, corpus.base).next_command


@pytest.mark.slow
def test_an_overfitted_run_resumes_from_its_best_evaluation(wrecked_run, corpus):
    folder, add = wrecked_run
    lines = [{"step": step, "loss": 3 - step / 100} for step in range(1, 101)]
    evaluations = zip(range(20, 101, 20), (3, 2.5, 2.7, 2.8, 2.9), strict=True)
    lines += [{"eval": True, "step": step, "language": "am", "loss": loss} for step, loss in evaluations]
    write_metrics(folder, lines)
    for name, step, scale in (("best_model_40.pth", 40, 1.1), ("checkpoint_60.pth", 60, 1.2)):
        add(name, step, scale)
    found = examine(add("checkpoint_100.pth", 100, 1.3), corpus.base)
    assert found.verdict == "overfitted"
    flags = f"{folder / 'best_model_40.pth'}' --learning-rate 0.0001 --new-run --allow-changes"
    assert found.next_command.endswith(flags)


@pytest.mark.slow
def test_an_old_runs_learning_rate_of_new_rows_is_lowered_too(wrecked_run, corpus):
    _, add = wrecked_run
    file = add("checkpoint_40.pth", 40, 1.5, OLDER)
    start, config = parsed(examine(file, corpus.base).next_command)
    assert start.mode is not Mode.RESUME
    assert (config.lr, config.new_row_learning_rate, config.l2_sp, config.layer_decay) == (1e-4, 3e-4, 20, 0.7)

    add("checkpoint_20.pth", 20, 1.0, OLDER)
    start, config = parsed(examine(file, corpus.base).next_command)
    assert (start.mode is Mode.RESUME, config.lr, config.new_row_learning_rate) == (True, 1e-4, 3e-4)


def test_a_healthy_run_is_resumed_or_exported_if_finished(wrecked_run, corpus):
    folder, add = wrecked_run
    metrics(folder, ran_away_after=60)
    file = add("checkpoint_40.pth", 40, 1.0)
    found = examine(file, corpus.base)
    assert (found.verdict, shlex.split(found.next_command)[2:]) == ("healthy", ["--checkpoint", str(file)])
    edited(file, folder, with_settings(max_steps=40))
    command = shlex.split(examine(file, corpus.base).next_command)
    assert command == ["xtts-extend", "export", "--checkpoint", str(file), "--output", "MODEL"]


def test_settings_of_a_damaged_file_come_from_its_folder(wrecked_run, corpus, short_run):
    folder, add = wrecked_run
    file = add("checkpoint_40.pth", 40, 1.0)
    recorded = torch.load(file, weights_only=True)["config"]
    (folder / "config.json").write_text(json.dumps(recorded), encoding="utf-8")
    cut(file, 9000)
    found = examine(file, corpus.base)
    assert (found.verdict, found.notes) == ("truncated", [])
    assert differences(recorded, parsed(found.next_command)[1]) == set()


def test_unrecorded_settings_are_noted(healthy_stock, corpus, tmp_path):
    """A stock run does not record languages, manifests and accumulation; stripped weights record nothing."""
    found = examine(healthy_stock, corpus.base)
    assert found.next_command.endswith(
        f"--base-dir {corpus.base} --language LANGUAGE --train-manifest MANIFEST --grad-accum-steps 1"
    )
    assert found.notes[-2:] == [
        "The stock Trainer does not record the number of gradient accumulation steps (5 updates were made in about 5 "
        "batches).",
        "Fill in these values, which are not recorded in any file: LANGUAGE, MANIFEST.",
    ]
    stripped = edited(healthy_stock, tmp_path, stripped_of("optimizer", "config"))
    shutil.copyfile(corpus.vocab, tmp_path / "vocab.json")
    found = examine(stripped, corpus.base)
    assert "--start-fresh" not in found.next_command
    default = NewLanguageConfig()
    assert any(f"(batch size {default.batch_size}, learning rate {default.lr:g}" in note for note in found.notes)


def test_a_run_of_several_processes_starts_with_the_same_number(wrecked_run, corpus):
    folder, add = wrecked_run
    file = add("checkpoint_40.pth", 40, 1.0, put(2, "xtts_extend", "processes"))
    recipe = "torchrun --nproc_per_node 2 recipes/new_language/train_gpt_xtts.py"
    found = examine(file, corpus.base)
    assert found.next_command.startswith(f"{recipe} --base-dir")
    assert " ".join(as_flag("batch_size", 3)) in found.next_command
    # A resume uses the same number.
    metrics(folder, ran_away_after=60)
    assert examine(file, corpus.base).next_command == f"{recipe} --checkpoint {shlex.quote(str(file))}"


#: An edit that makes five updates look as if they had taken 40 batches.
accumulated = at_step(39)


@pytest.mark.slow
def test_an_accumulation_that_no_file_records_is_to_be_filled_in(healthy_stock, corpus, tmp_path):
    """The recipe requires it, so every suggested command has it."""
    file = edited(healthy_stock, tmp_path / "run", accumulated)
    argv = shlex.split(examine(file, corpus.base).next_command)[2:]
    filled = {"LANGUAGE": "am", "MANIFEST": str(corpus.train), "N": "8"}
    assert argv[-2:] == ["--grad-accum-steps", "N"]
    start, config = configured([filled.get(word, word) for word in argv])
    assert (start.mode is Mode.RESUME, config.grad_accum_steps) == (True, 8)

    later = edited(file, tmp_path / "run", put(math.nan, "model", MEL_HEAD, ...))
    later.replace(tmp_path / "run" / "checkpoint_50.pth")
    edited(healthy_stock, tmp_path / "run", accumulated)
    found = examine(tmp_path / "run" / "checkpoint_50.pth", corpus.base)
    assert (found.verdict, f"--checkpoint {file} " in found.next_command) == ("not-finite", True)
    assert "--grad-accum-steps N --grad-clip 1 " in found.next_command
    note = (
        "The stock Trainer does not record the number of gradient accumulation steps (5 updates were made in about 40 "
        "batches)."
    )
    assert note in found.notes

    file.unlink()
    assert "--grad-accum-steps N " in examine(tmp_path / "run" / "checkpoint_50.pth", corpus.base).next_command
    edited(healthy_stock, tmp_path / "run", as_it_was)
    (tmp_path / "run" / "checkpoint_50.pth").write_bytes(b"PK half")
    assert "--grad-accum-steps 1" in examine(tmp_path / "run" / "checkpoint_50.pth", corpus.base).next_command


def test_a_new_run_does_not_log_into_the_folder_of_the_old_one(healthy_stock, corpus, tmp_path):
    others = with_settings(logger_uri="/others/logs", grad_clip=None)
    found = examine(edited(healthy_stock, tmp_path, others, put(math.nan, "model", MEL_HEAD, ...)), corpus.base)
    assert found.verdict == "not-finite"
    assert "--checkpoint" not in found.next_command
    assert "/others/logs" not in found.next_command
    assert flags_of_run({"logger_uri": "/others/logs"}, corpus.base) == ([], [])
    server = {"logger_uri": "http://host", "dashboard_logger": "mlflow"}
    assert "--coqpit.logger_uri=http://host" in flags_of_run(server, corpus.base)[0]


def test_data_sets_of_the_hub_are_not_missing_files(tmp_path):
    (tmp_path / "train.csv").touch()
    specs = ["hf:a/b@train:am", "https://x.org/a.tar.gz", f"{tmp_path / 'train.csv'}:am", str(tmp_path / "val.csv")]
    assert [next_steps._exists(spec) for spec in specs] == [True, True, True, False]
