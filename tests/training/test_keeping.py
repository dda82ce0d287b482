"""Runs that keep old languages: exact resumes, measured retention, the best model, and exports."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import edited, put
from networks import base_weights
from runs import checkpoint, only_run, require_same_run

from xtts_extend.data.audio import save_wav
from xtts_extend.data.encoded import TOP_K, Utterance, write_index, write_part
from xtts_extend.errors import ConfigError, PackError
from xtts_extend.files import file_digest
from xtts_extend.model.adapter import merge
from xtts_extend.model.gpt_trainer import xtts_weights
from xtts_extend.pack.file import Pack
from xtts_extend.rescue.doctor import examine
from xtts_extend.rescue.repair import repair
from xtts_extend.run.config import NewLanguageConfig, changes
from xtts_extend.run.metrics import read_metrics
from xtts_extend.speech.export import export


@pytest.fixture(scope="module")
def replay(corpus, tmp_path_factory) -> Path:
    """A replay set like one made by the corpus' base model, with random codes and distributions."""
    folder = tmp_path_factory.mktemp("replay ድገም")
    generator = torch.Generator().manual_seed(0)
    save_wav(folder / "voice.wav", 0.1 * torch.randn(5 * 22050, generator=generator), 22050)
    utterances = []
    for number, text in enumerate(("Hello world.", "The bus driver sings.", "Hola.", "La casa es grande.")):
        codes = torch.randint(1024, (24 + 8 * number,), generator=generator)
        ids = torch.stack([torch.randperm(1026, generator=generator)[:TOP_K] for _ in range(len(codes) + 1)])
        log_probs = torch.randn(ids.shape, generator=generator).log_softmax(-1) - 0.1
        language = "en" if number < 2 else "es"
        utterances.append(Utterance(text, language, "voice.wav", codes, (0, 70000 + number), (ids, log_probs)))
    write_index(
        folder,
        {
            "parts": [write_part(folder, 0, utterances)],
            "base_digest": file_digest(corpus.base / "model.pth"),
            "conditioning": [66150, 132300],
        },
    )
    return folder


def replay_flags(corpus, replay, **flags) -> list[str]:
    """Return flags of a run that replays the set and English recordings."""
    given = corpus.flags(val_manifest=None, batch_size=4, **flags)
    given += [f"--replay={replay}", f"--replay={corpus.english}:en", "--replay-share=0.5"]
    return [*given, f"--val-manifest={corpus.val}", f"--val-manifest={corpus.english}:en"]


#: Settings that have no flag any more and that older runs recorded.
RECORDED = {"l2_sp": 20.0, "layer_decay": 0.7, "new_row_learning_rate": 3e-3}


def as_overrides(settings):
    return [f"--coqpit.{key}={value}" for key, value in settings.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "recorded"),
    [({"distill_weight": 0.5}, RECORDED), ({"adapter": "lora", "adapter_rank": 4}, {})],
    ids=["recorded", "lora"],
)
def test_resumed_is_uninterrupted(corpus, recipe, replay, tmp_path, flags, recorded):
    given = {"epochs": 1, "eval_step": 4, **flags}
    for name, limit in (("uninterrupted", {}), ("resumed", {"max_steps": 3})):
        recipe([*replay_flags(corpus, replay, output_dir=tmp_path / name, **limit, **given), *as_overrides(recorded)])
    uninterrupted, resumed = only_run(tmp_path / "uninterrupted"), only_run(tmp_path / "resumed")
    recipe([f"--checkpoint={resumed}", "--max-steps=1000", "--num-workers=1"])
    # 12 Amharic and 12 replayed utterances, in batches of four.
    require_same_run(uninterrupted, resumed, 6)
    config = checkpoint(resumed, 6)["config"]
    assert {key: config[key] for key in recorded} == recorded
    expected, found = (checkpoint(run, 6)["xtts_extend"]["adapter"]["tensors"] for run in (uninterrupted, resumed))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    steps, _ = read_metrics(uninterrupted)
    assert all(line["loss_distill"] > 0 for line in steps)
    names = [name for line in steps for name in line["samples"]]
    replayed = [name for name in names if name.startswith("part-00000.arrow#") or "en_" in name]
    assert len(replayed) == len(names) / 2


@pytest.mark.slow
def test_distillation_l2_sp_and_learning_rates_have_an_effect(corpus, recipe, replay, tmp_path):
    settings = {"distill_weight": 0.5, **RECORDED, "l2_sp": 200.0}
    variants = {"none": {}} | {key: {key: value} for key, value in settings.items()}
    runs = {}
    for name, changed in variants.items():
        given = replay_flags(corpus, replay, output_dir=tmp_path / name, max_steps=2, distill_weight=0)
        recipe([*given, *as_overrides(changed)])
        runs[name] = checkpoint(only_run(tmp_path / name), 2)["model"]
    key = "xtts.gpt.gpt.h.0.mlp.c_fc.weight"
    base = base_weights(corpus.base)[key.removeprefix("xtts.")]
    moved = {name: float((model[key] - base).norm()) for name, model in runs.items()}
    assert moved["l2_sp"] < 0.9 * moved["none"]
    assert moved["layer_decay"] == pytest.approx(0.7 * moved["none"], rel=0.05)
    assert moved["distill_weight"] != moved["none"]
    rows = {name: model["xtts.gpt.text_embedding.weight"][400:] for name, model in runs.items()}
    assert not torch.equal(rows["new_row_learning_rate"], rows["none"])


def retention_lines(run: Path) -> dict[int, float]:
    return {line["step"]: line["retention"] for line in read_metrics(run)[1] if line["language"] == "en"}


@pytest.mark.slow
def test_retention_selects_the_best_model_and_is_resumed(corpus, recipe, replay, tmp_path, caplog):
    flags = replay_flags(corpus, replay, output_dir=tmp_path / "run", eval_step=1, patience=3, learning_rate=3e-3)
    # No retention is this high.
    recipe([*flags, "--min-retention=1.5", "--max-steps=2"])
    run = only_run(tmp_path / "run")
    lines = read_metrics(run)[1]
    losses = {line["step"]: line["loss_mel_ce"] for line in lines if line["language"] == "en"}
    assert retention_lines(run) == {step: losses[0] / loss for step, loss in losses.items()}
    assert not any("retention" in line for line in lines if line["language"] == "am")
    assert not list(run.glob("best_model*"))
    assert "This model cannot become the best model, because its retention is below 1.5 (en " in caplog.text
    state = checkpoint(run, 2)["xtts_extend"]["state"]
    assert state["base_losses"] == {"en": losses[0]}
    # Retention does not depend on the weight of the loss.
    other = ["--mel-loss-weight=0.5", "--allow-changes", "--patience=9", f"--output-dir={tmp_path / 'weighted'}"]
    recipe([f"--checkpoint={run}", "--new-run", "--max-steps=3", *other])
    assert retention_lines(only_run(tmp_path / "weighted"))[3] == pytest.approx(retention_lines(run)[2], rel=0.2)
    assert state["evaluations_without_best"] == 2

    recipe([f"--checkpoint={run}", "--max-steps=1000"])
    assert "recent evaluations found no better model (3 in a row)" in caplog.text
    assert max(line["step"] for line in read_metrics(run)[0]) == 3
    caplog.clear()
    recipe([f"--checkpoint={run}"])
    assert "The run is finished" in caplog.text
    # A lower limit and more patience: training continues and finds a best model.
    recipe([f"--checkpoint={run}", "--patience=10", "--min-retention=0.1", "--max-steps=4"])
    assert list(run.glob("best_model_4.pth"))


@pytest.mark.slow
def test_the_base_is_measured_again_on_another_validation_set(corpus, recipe, replay, tmp_path):
    recipe(replay_flags(corpus, replay, output_dir=tmp_path / "run", max_steps=2))
    run = only_run(tmp_path / "run")
    recipe([f"--checkpoint={run}", "--max-steps=4", "--eval-step=4", f"--val-manifest={corpus.english}:en"])
    base_losses = checkpoint(run, 4)["xtts_extend"]["state"]["base_losses"]
    given = replay_flags(corpus, replay, output_dir=tmp_path / "other", max_steps=1)[:-2]
    recipe([*given, f"--val-manifest={corpus.english}:en"])
    assert base_losses == checkpoint(only_run(tmp_path / "other"), 1)["xtts_extend"]["state"]["base_losses"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--replay={train}"], "--replay contains utterances in am"),
        (["--replay-share=0.5"], "--replay-share needs replay data"),
        (["--replay={folder}"], "is a folder"),
        (
            ["--replay={replay}", "--coqpit.model_args.max_conditioning_length=70000"],
            "with a matching --conditioning-s",
        ),
        (["--min-retention=0.9"], "none of the validation sets is in a language that the base knows"),
        (["--adapter=lora", "--coqpit.l2_sp=1"], "l2_sp pulls the transformer"),
        (["--adapter=lora", "--no-freeze-base-rows"], "An adapter requires frozen base rows"),
        (["--adapter=lora", "--voice=trained"], "--adapter lora freezes the voice side"),
    ],
)
def test_flags_that_contradict_each_other(corpus, fails, replay, tmp_path, given, message):
    paths = {"train": corpus.train, "folder": tmp_path, "replay": replay}
    flags = corpus.flags(output_dir=tmp_path, max_steps=1)
    code, error = fails([*flags, *(flag.format(**paths) for flag in given)])
    assert code == 2
    assert message in error


@pytest.fixture(scope="module")
def adapted(corpus, recipe, replay, tmp_path_factory) -> Path:
    """A run of two steps with an adapter."""
    output = tmp_path_factory.mktemp("adapted")
    recipe(replay_flags(corpus, replay, output_dir=output, adapter="lora", max_steps=2))
    return only_run(output)


def test_an_adapter_is_exported_merged_or_as_a_pack_of_its_rank(corpus, adapted, tmp_path):
    base = base_weights(corpus.base)
    trained = checkpoint(adapted, 2)
    adapter = trained["xtts_extend"]["adapter"]["tensors"]
    matrix = "gpt.gpt.h.1.attn.c_attn.weight"
    # The checkpoint's own weights are the base model's.
    assert torch.equal(trained["model"][f"xtts.{matrix}"], base[matrix])

    export(adapted, tmp_path / "merged", merged=True)
    merged = torch.load(tmp_path / "merged" / "model.pth", weights_only=True)["model"]
    assert torch.equal(merged[matrix], merge(xtts_weights(trained["model"]), adapter)[matrix])
    assert not torch.equal(merged[matrix], base[matrix])

    done = export(adapted, tmp_path / "am.safetensors")
    pack = Pack.open(tmp_path / "am.safetensors")
    assert done["rank"] == pack.info.rank == trained["xtts_extend"]["adapter"]["rank"]
    weights = pack.weights(base)
    assert weights.keys() == merged.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, merged[name]), name
    # The pack has low-rank factors instead of matrices.
    assert matrix not in pack.info.tensors
    with pytest.raises(PackError, match="whose rank is kept"):
        export(adapted, tmp_path / "other.safetensors", rank=4)
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.slow
def test_start_fresh_merges_the_adapter(corpus, recipe, adapted, tmp_path):
    given = {"checkpoint": adapted, "start_fresh": True, "learning_rate": 0, "weight_decay": 0}
    recipe(corpus.flags(output_dir=tmp_path, max_steps=1, **given))
    trained, fresh = checkpoint(adapted, 2), checkpoint(only_run(tmp_path), 1)
    expected = merge(xtts_weights(trained["model"]), trained["xtts_extend"]["adapter"]["tensors"])
    for key, tensor in expected.items():
        assert torch.equal(fresh["model"][f"xtts.{key}"], tensor), key


@pytest.fixture(scope="module")
def own_base(corpus, recipe, replay, tmp_path_factory):
    """A folder with a run of one step and its own copy of the base model."""
    folder = tmp_path_factory.mktemp("own")
    base = shutil.copytree(corpus.base, folder / "base", copy_function=os.link)
    recipe([*replay_flags(corpus, replay, output_dir=folder / "runs", max_steps=1), f"--base-dir={base}"])
    return folder


@pytest.fixture
def resume(own_base, tmp_path):
    """Flags that resume a copy of that run for one more step."""
    run = shutil.copytree(only_run(own_base / "runs"), tmp_path / "run")
    return [f"--checkpoint={run}", "--max-steps=2"]


def test_a_base_that_changed(corpus, own_base, resume, fails, tmp_path):
    changed = edited(corpus.base / "model.pth", tmp_path / "changed", put(1, "model", "gpt.mel_head.bias", 0))
    changed.replace(own_base / "base" / "model.pth")
    assert "is not the file that the run started from" in fails(resume)[1]


@pytest.mark.slow
def test_a_base_that_is_missing(corpus, own_base, resume, fails, recipe, tmp_path):
    (own_base / "base" / "model.pth").unlink(missing_ok=True)
    assert "is missing. Restore the file" in fails(resume)[1]
    # on another machine the base lies elsewhere
    recipe([*resume, f"--base-dir={corpus.base}"])
    assert (tmp_path / "run" / "checkpoint_2.pth").is_file()


def test_a_replay_set_of_another_base(corpus, fails, replay, tmp_path):
    other = json.loads((replay / "set.json").read_text(encoding="utf-8")) | {"base_digest": "0" * 64}
    copied = shutil.copytree(replay, tmp_path / "copied")
    (copied / "set.json").write_text(json.dumps(other), encoding="utf-8")
    flags = corpus.flags(output_dir=tmp_path / "other", max_steps=1)
    assert "was made with a model other than" in fails([*flags, f"--replay={copied}"])[1]


def test_doctor_and_repair_support_adapters(corpus, adapted, tmp_path):
    found = examine(adapted, corpus.base)
    assert (found.verdict, found.notes) == ("healthy", [])
    assert found.measurements["moments"]["updates"] == 2
    # Measured with the adapter, as it is used in speech.
    assert found.measurements["transformer"]["layer 0"] > 0
    with pytest.raises(ConfigError, match="With an adapter, the transformer's weights are still the base's"):
        repair(adapted, corpus.base, tmp_path / "repaired", blend=0.5)


def test_moving_a_manifest_to_replay_changes_the_data(corpus, recipe, fails, tmp_path):
    given = corpus.flags(output_dir=tmp_path, max_steps=1, val_manifest=None)
    recipe([*given, f"--train-manifest={corpus.english}:en"])
    flags = [f"--checkpoint={only_run(tmp_path)}", f"--train-manifest={corpus.train}", f"--replay={corpus.english}:en"]
    assert "training samples: digest" in fails([*flags, "--max-steps=2"])[1]


def test_settings_that_an_older_run_did_not_record(short_run, fails):
    overrides = as_overrides({"l2_sp": 5, "layer_decay": 0.9})
    _, message = fails([f"--checkpoint={short_run}", "--new-run", *overrides])
    assert "l2_sp: 0.0 → 5.0" in message
    assert "layer_decay: 1.0 → 0.9" in message
    config = NewLanguageConfig()
    config.l2_sp = 5.0
    # A run that did not record the setting trained without it.
    assert changes({"lr": 1e-3}, config, ("l2_sp", "lr")) == ["l2_sp: 0.0 → 5.0", f"lr: 0.001 → {config.lr}"]
