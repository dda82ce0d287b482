"""What the recipe does with paths, flags, overrides and bad input before the first batch."""

import json
import shutil

import pytest
import torch
from runs import checkpoint, configured, edited, only_run

from xtts_extend import inspect_checkpoint
from xtts_extend.checkpoint.store import lock_run
from xtts_extend.errors import CheckpointError, ConfigError
from xtts_extend.run.config import NewLanguageConfig, apply_override, changes
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.flags import Flags
from xtts_extend.setup.start import Mode, open_checkpoint


@pytest.fixture(scope="module")
def run(corpus, recipe, tmp_path_factory):
    """A short run with settings that are not the defaults."""
    output = tmp_path_factory.mktemp("run")
    recipe(corpus.flags(output_dir=output, max_steps=2, weight_decay=0.05, text_loss_weight=0.5, seed=7))
    return only_run(output)


def configure(*argv: str) -> NewLanguageConfig:
    return configured(argv)[1]


def test_the_architecture_is_the_bases(corpus):
    config = configure(*corpus.flags())
    assert (config.model_args.gpt_layers, config.model_args.gpt_n_model_channels) == (2, 64)
    assert config.model_args.gpt_num_audio_tokens == 1026
    assert config.model_args.gpt_use_perceiver_resampler is True
    assert config.languages == ["en", "es", "am"]
    # what the base's config says about training does not count
    assert (config.optimizer, config.epochs, config.lr) == ("AdamW", 2, 1e-3)


def test_a_resume_takes_what_was_recorded(run):
    config = configure("--checkpoint", run)
    assert config.lr == 1e-3
    assert config.optimizer_params["weight_decay"] == 0.05
    assert config.model_args.gpt_loss_text_ce_weight == 0.5
    assert (config.training_seed, config.batch_size, config.grad_accum_steps, config.max_steps) == (7, 2, 1, 2)
    assert config.model_args.tokenizer_file == str(run / "vocab.json")


def test_overrides_beat_flags_and_flags_beat_the_record(run):
    config = configure(
        "--checkpoint", run, "--learning-rate", "0.5", "--seed", "9", "--coqpit.lr=0.25", "--coqpit.save_step", "3"
    )
    assert (config.lr, config.training_seed, config.save_step) == (0.25, 9, 3)
    config = configure("--checkpoint", run, "--weight-decay", "0.2", "--coqpit.optimizer_params.weight_decay=0.3")
    assert config.optimizer_params["weight_decay"] == 0.3


def test_new_folders_of_a_stock_run_lie_beside_its_own(stock_file, corpus, tmp_path):
    beside = configure(*corpus.stock_flags(stock_file.parent))
    assert beside.output_path == str(stock_file.parent.parent)
    # moved out of its folder, it has no place beside it: not the parent of, say, a home folder
    moved = shutil.copyfile(stock_file, tmp_path / "checkpoint_4.pth")
    assert configure(*corpus.stock_flags(moved)).output_path == "runs"


def test_amp_is_two_values(corpus):
    config = configure(*corpus.flags(amp="bf16"))
    assert (config.mixed_precision, config.precision) == (True, "bf16")
    assert configure(*corpus.flags(amp="none")).mixed_precision is False


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("lr=5e-6", lambda c: c.lr == 5e-6),
        ("lr=1", lambda c: c.lr == 1.0 and type(c.lr) is float),
        ("mixed_precision=true", lambda c: c.mixed_precision is True),
        ("run_eval=False", lambda c: c.run_eval is False),
        ("run_name=7", lambda c: c.run_name == "7"),
        ("max_steps=null", lambda c: c.max_steps is None),
        ('languages=["en"]', lambda c: c.languages == ["en"]),
        ("model_args.max_text_length=300", lambda c: c.model_args.max_text_length == 300),
        ("optimizer_params.eps=1e-6", lambda c: c.optimizer_params["eps"] == 1e-6),
        ("optimizer_params.betas.1=0.9", lambda c: c.optimizer_params["betas"] == [0.9, 0.9]),
        ('test_sentences=[{"text": "a=b"}]', lambda c: c.test_sentences == [{"text": "a=b"}]),
    ],
)
def test_overrides(override, read):
    config = NewLanguageConfig()
    assert not read(config) or override in ("lr=5e-6", "max_steps=null")
    apply_override(config, f"--coqpit.{override}")
    assert read(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lrr=1", "no such key"),
        ("model_args.nothing=1", "no such key"),
        ("optimizer_params.betas.7=1", "no such key"),
        ("lr=abc", "float was expected"),
        ("epochs=1.5", "int was expected"),
        ("mixed_precision=2", "bool was expected"),
        ("optimizer_params=3", "dict or list or null was expected|dict was expected"),
        ("lr", "has no value"),
    ],
)
def test_overrides_that_make_no_sense(override, message):
    with pytest.raises(ConfigError, match=message):
        apply_override(NewLanguageConfig(), f"--coqpit.{override}")


def test_changes_are_listed_with_both_values():
    config = NewLanguageConfig(batch_size=3)
    recorded = {"batch_size": 2, "lr": config.lr, "model_args": {"max_text_length": 100}}
    assert changes(recorded, config) == ["batch_size: 2 → 3", "model_args.max_text_length: 100 → 200"]


def test_a_changed_run_needs_a_word(run, fails, recipe, tmp_path, caplog):
    copy = shutil.copytree(run, tmp_path / "run")
    code, message = fails(["--checkpoint", str(copy), "--learning-rate", "0.5", "--max-steps", "3"])
    assert code == 2
    assert "lr: 0.001 → 0.5" in message
    recipe(["--checkpoint", str(copy), "--learning-rate", "0.5", "--max-steps", "3", "--allow-changes"])
    assert "changed, as asked: lr: 0.001 → 0.5" in caplog.text
    groups = checkpoint(copy, 3)["optimizer"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in groups] == [0.05, 0]


def test_what_the_optimizer_depends_on_cannot_change(run, fails):
    code, message = fails(["--checkpoint", str(run), "--warmup-steps", "10", "--allow-changes"])
    assert code == 2
    assert "cannot change within a run" in message
    assert "lr_scheduler: None → LinearLR" in message


def test_a_changed_manifest_is_noticed(run, corpus, fails, tmp_path):
    shorter = corpus.train.with_name("shorter.csv")
    shorter.write_text("".join(corpus.train.read_text(encoding="utf-8").splitlines(True)[:-1]), encoding="utf-8")
    code, message = fails(["--checkpoint", str(run), "--train-manifest", str(shorter)])
    assert (code, "training samples: digest" in message) == (2, True)


def test_another_vocabulary_is_refused(run, corpus, fails):
    code, message = fails(["--checkpoint", str(run), "--vocab", str(corpus.base / "vocab.json"), "--language", "en"])
    assert code == 2
    assert "trained with another vocabulary" in message


def test_a_finished_run_says_so(run, recipe, caplog):
    before = (run / "metrics.jsonl").read_bytes()
    recipe(["--checkpoint", str(run)])
    assert "The run is finished: step 2" in caplog.text
    assert (run / "metrics.jsonl").read_bytes() == before


def test_start_fresh_takes_only_weights(run, corpus, recipe, tmp_path, caplog):
    recipe(corpus.flags(checkpoint=run, start_fresh=True, output_dir=tmp_path, max_steps=1, learning_rate=0))
    assert "only its weights are taken" in caplog.text
    fresh, old = checkpoint(only_run(tmp_path), 1), checkpoint(run, 2)
    assert fresh["step"] == 1
    assert {int(moments["step"]) for moments in fresh["optimizer"][0]["state"].values()} == {1}
    for key, tensor in old["model"].items():
        assert torch.equal(fresh["model"][key], tensor), key
    # the rows that the base brought stay frozen
    assert fresh["xtts_extend"]["base_rows"] == old["xtts_extend"]["base_rows"]


def test_a_stripped_checkpoint_is_a_base_and_we_say_so(run, corpus, recipe, tmp_path, caplog):
    file = tmp_path / "checkpoint_17000.pth"
    torch.save({"model": checkpoint(run, 2)["model"], "step": 17000, "epoch": 3}, file)
    shutil.copy(run / "vocab.json", tmp_path / "vocab.json")
    recipe(corpus.flags(checkpoint=file, output_dir=tmp_path / "runs", max_steps=1))
    printed = caplog.text
    assert "is a base model" in printed
    assert "named like a training checkpoint" in printed
    assert checkpoint(only_run(tmp_path / "runs"), 1)["step"] == 1


def test_a_new_run_folder_on_request(run, recipe, tmp_path):
    before = sorted(file.name for file in run.iterdir())
    recipe(["--checkpoint", str(run), "--new-run", "--output-dir", str(tmp_path / "እዚህ here"), "--max-steps", "3"])
    new = only_run(tmp_path / "እዚህ here")
    assert (new / "checkpoint_3.pth").is_file()
    assert sorted(file.name for file in run.iterdir()) == before


def test_a_known_language_is_plain_fine_tuning(corpus, recipe, tmp_path, caplog):
    flags = corpus.flags(
        vocab=None, language="en", train_manifest=corpus.english, val_manifest=None, output_dir=tmp_path, max_steps=1
    )
    recipe(flags)
    assert "0 of" in caplog.text
    saved = checkpoint(only_run(tmp_path), 1)
    base = torch.load(corpus.base / "model.pth", weights_only=True)["model"]
    assert saved["model"]["xtts.gpt.text_embedding.weight"].shape == base["gpt.text_embedding.weight"].shape
    assert not torch.equal(saved["model"]["xtts.gpt.text_embedding.weight"], base["gpt.text_embedding.weight"])
    assert not saved["xtts_extend"]["base_rows"]["frozen"]


def test_all_rows_train_on_request(corpus, recipe, tmp_path):
    recipe(corpus.flags(output_dir=tmp_path, max_steps=1, no_freeze_base_rows=True))
    state = checkpoint(only_run(tmp_path), 1)["model"]
    base = torch.load(corpus.base / "model.pth", weights_only=True)["model"]["gpt.text_head.weight"]
    assert not torch.equal(state["xtts.gpt.text_head.weight"][: len(base)], base)


def broken_base(corpus, folder, what):
    """A copy of the base (hard links) with one thing wrong; returns the start of the message."""
    base = folder / "base"
    shutil.copytree(corpus.base, base, copy_function=lambda a, b: __import__("os").link(a, b))
    if what in ("dvae.pth", "mel_stats.pth", "config.json", "model.pth"):
        (base / what).unlink()
        return what
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").unlink()
    message = {
        "layers": "gpt_layers = 3",
        "heads": "does not divide",
        "no architecture": "no 'model_args'",
        "not json": "is not JSON",
        "mel stats": "80 numbers",
    }[what]
    if what == "layers":
        config["model_args"]["gpt_layers"] = 3
    elif what == "heads":
        config["model_args"]["gpt_n_heads"] = 7
    elif what == "no architecture":
        del config["model_args"]
    elif what == "mel stats":
        (base / "mel_stats.pth").unlink()
        torch.save(torch.zeros(80), base / "mel_stats.pth")
    text = "{" if what == "not json" else json.dumps(config)
    (base / "config.json").write_text(text, encoding="utf-8")
    return message


@pytest.mark.parametrize(
    "what",
    [
        "dvae.pth",
        "mel_stats.pth",
        "config.json",
        "model.pth",
        "layers",
        "heads",
        "no architecture",
        "not json",
        "mel stats",
    ],
)
def test_a_base_that_does_not_fit(corpus, fails, tmp_path, what):
    message = broken_base(corpus, tmp_path, what)
    code, printed = fails(corpus.flags(base_dir=tmp_path / "base", output_dir=tmp_path / "runs"))
    assert code == 2
    assert message in printed
    assert not list((tmp_path / "runs").glob("*/")) or not (tmp_path / "runs").exists()


@pytest.mark.parametrize("lacking", ["step", "epoch"])
def test_an_optimizer_without_a_count_is_no_run(tmp_path, caplog, lacking):
    weights = {f"gpt.{name}": torch.zeros(3, 2) for name in ("text_embedding.weight", "gpt.h.0.ln_1.weight")}
    moments = {0: {"step": torch.tensor(5.0), "exp_avg": torch.zeros(3, 2)}}
    content = {"model": weights, "optimizer": {"state": moments, "param_groups": [{"params": [0]}]}}
    torch.save({**content, "step": 5, "epoch": 1, lacking: None}, tmp_path / "checkpoint_5.pth")
    caplog.set_level("INFO", "trainer")
    file = tmp_path / "checkpoint_5.pth"
    with pytest.raises(CheckpointError, match=rf"the state of an optimizer and no {lacking}: .* with --start-fresh"):
        open_checkpoint(Flags(checkpoint=str(file)), Ranks())
    with pytest.raises(CheckpointError, match=rf"checkpoint_5\.pth holds no {lacking}"):
        open_checkpoint(Flags(checkpoint=str(tmp_path)), Ranks())
    start = open_checkpoint(Flags(checkpoint=str(file), start_fresh=True), Ranks())
    assert (start.mode, start.info.kind) == (Mode.START, "base")
    assert "was stripped" not in caplog.text


@pytest.mark.slow
def test_a_run_in_half_precision_resumes(run, recipe, tmp_path, caplog):
    """Its weights become float32, and so do its moments; the optimizer counts on."""

    def halve(content):
        content["model"] = {
            key: one.bfloat16() if one.is_floating_point() else one for key, one in content["model"].items()
        }
        for moments in content["optimizer"][0]["state"].values():
            moments.update({key: moments[key].half() for key in ("exp_avg", "exp_avg_sq")})

    file = edited(run / "checkpoint_2.pth", tmp_path / "half", halve)
    recipe(["--checkpoint", str(file), "--max-steps", "3", "--learning-rate", "0", "--allow-changes"])
    before, after = (torch.load(one, weights_only=True) for one in (file, file.parent / "checkpoint_3.pth"))
    for key, tensor in before["model"].items():
        assert torch.equal(after["model"][key], tensor.to(after["model"][key].dtype)), key
    assert {one.dtype for one in after["model"].values() if one.is_floating_point()} == {torch.float32}
    moments = after["optimizer"][0]["state"][0]
    assert (int(moments["step"]), moments["exp_avg"].dtype) == (3, torch.float32)
    assert "in half precision (torch.bfloat16): training goes on in float32" in caplog.text
    assert "The frozen rows are not exactly the base's any more" in caplog.text


def test_a_vocabulary_smaller_than_the_base(corpus, run, fails, tmp_path):
    stripped = tmp_path / "model.pth"
    torch.save({"model": checkpoint(run, 2)["model"]}, stripped)
    code, message = fails(
        corpus.flags(checkpoint=stripped, vocab=corpus.base / "vocab.json", language="en", output_dir=tmp_path)
    )
    assert code == 2
    assert "is not an extension of the base's vocabulary" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"language": "amm"}, "no tag [amm]"),
        ({"language": None}, "--language is missing"),
        ({"base_dir": "/nowhere/at all"}, "does not exist"),
        ({"checkpoint": "/nowhere/ሞዴል.pth"}, "does not exist"),
        ({"train_manifest": "/nowhere/train.csv"}, "no manifest '/nowhere/train.csv'"),
        ({"train_manifest": None}, "--train-manifest is missing"),
        ({"vocab": "/nowhere/vocab.json"}, "cannot be read: No such file"),
        ({"amp": "fp16"}, "needs a GPU"),
        ({"test_sentence": "am:/nowhere/voice.wav:ሰላም"}, "no such file"),
        ({"language_weights": "am=1,en=2"}, "language weights for am, en, but the samples are in am"),
    ],
)
def test_bad_flags_are_one_clear_line(corpus, fails, tmp_path, flags, message):
    if flags == {"amp": "fp16"} and torch.cuda.is_available():
        pytest.skip("fp16 works here")
    code, printed = fails(corpus.flags(output_dir=tmp_path, **flags))
    assert code == 2
    assert message in printed
    assert printed.startswith("error: ")


def test_nothing_to_start_from(fails):
    code, message = fails(["--language", "am"])
    assert code == 2
    assert "Neither --base-dir nor --checkpoint" in message


@pytest.mark.parametrize(
    "flags", [["--rank", "16"], ["--epoch", "3"], ["--batch-size", "0"], ["--learning-rate", "nan"]]
)
def test_flags_are_not_guessed(recipe, flags):
    """TrainerArgs accepts abbreviations and its own names: `--rank 16` became the process rank."""
    with pytest.raises(SystemExit) as caught:
        recipe(flags)
    assert caught.value.code == 2


def test_an_empty_manifest(corpus, fails, tmp_path):
    empty = tmp_path / "train.csv"
    empty.write_text("", encoding="utf-8")
    code, message = fails(corpus.flags(train_manifest=empty, output_dir=tmp_path))
    assert code == 2
    assert "empty" in message


def test_too_many_bad_samples_stop_the_run(corpus, fails, recipe, tmp_path, caplog):
    bad = corpus.train.with_name("bad.csv")
    bad.write_text(corpus.train.read_text(encoding="utf-8") + "wavs/none.wav|ሰላም|x\n", encoding="utf-8")
    code, message = fails(corpus.flags(train_manifest=bad, output_dir=tmp_path))
    assert code == 2
    assert "1 of 13 training samples are unusable (7.7%; --max-bad-share allows 1.0%)" in message
    recipe(corpus.flags(train_manifest=bad, output_dir=tmp_path, max_bad_share=0.1, max_steps=1))
    assert "none.wav" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer_params.wait_decay=0.1", "unexpected keyword argument 'wait_decay'"),
        ("optimizer=AdamX", "The optimizer AdamX"),
        ("lr_scheduler=NopeLR", "the schedule NopeLR"),
        ("lr_scheduler=StepLR", "step_size"),
        ("dashboard_logger=foo", "one of tensorboard, wandb"),
        ("test_sentences=[1]", "an object with text, language"),
        ("audio.sample_rate=0", "leave it as the base's"),
    ],
)
def test_overrides_of_which_nothing_can_be_made(corpus, fails, tmp_path, override, message):
    code, printed = fails([*corpus.flags(output_dir=tmp_path), f"--coqpit.{override}"])
    assert code == 2
    assert message in printed
    assert not any(tmp_path.glob("xtts-*")), "a refused start leaves no run folder"


def test_a_refused_resume_writes_nothing(run, corpus, fails, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    code, printed = fails(["--checkpoint", str(copy), "--batch-size", "3"])
    assert (code, "batch_size: 2 → 3" in printed) == (2, True)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def test_one_process_at_a_time(run, fails, tmp_path, monkeypatch):
    monkeypatch.setattr("xtts_extend.checkpoint.store._LOCK_TIMEOUT_S", 0.1)
    copy = shutil.copytree(run, tmp_path / "run")
    held = lock_run(copy)
    code, printed = fails(["--checkpoint", str(copy), "--epochs", "9"])
    assert (code, "Another process trains in" in printed) == (2, True)
    held.release()


def test_less_data_ends_the_epoch_and_other_evaluation_data_forget_the_best(run, corpus, recipe, tmp_path, caplog):
    caplog.set_level("INFO")
    copy = shutil.copytree(run, tmp_path / "run")
    lines = corpus.train.read_text(encoding="utf-8").splitlines(True)
    small = corpus.train.with_name("small.csv")
    small.write_text("".join(lines[:3]), encoding="utf-8")
    steps = inspect_checkpoint(copy).step
    flags = ["--train-manifest", str(small), "--val-manifest", str(small), "--allow-changes", "--max-steps", steps + 1]
    recipe(["--checkpoint", str(copy), "--epochs", "9", *map(str, flags)])
    assert "has fewer batches now, and is over" in caplog.text
    assert "the best model so far is forgotten" in caplog.text
    assert inspect_checkpoint(copy).step == steps + 1
