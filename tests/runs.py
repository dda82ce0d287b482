"""Helpers for tests of runs: flags, run folders, and exact comparison of checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer import Trainer, TrainerArgs

import xtts_extend
from xtts_extend.data.audio import load_audio
from xtts_extend.data.manifest import read_manifests
from xtts_extend.model.blank import BlankWeights
from xtts_extend.model.embedding import extend_token_tensors
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.recipes import find_recipe
from xtts_extend.run.config import NewLanguageConfig, copy_architecture, copy_recorded, read_json
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.base import use_base
from xtts_extend.setup.flags import parse_flags
from xtts_extend.setup.resolve import resolve_config
from xtts_extend.setup.start import Start, open_checkpoint
from xtts_extend.setup.validate import validate_config
from xtts_extend.setup.vocabulary_change import match_vocabulary
from xtts_extend.text.vocabulary import load_vocabulary

#: Number of optimizer steps of a run with `Corpus.flags`: two epochs of six.
STEPS = 12
#: Settings of the fixture `uninterrupted`.
UNINTERRUPTED = {"eval_step": 4, "save_step": 4, "warmup_steps": 6}
RECIPE = find_recipe()


@dataclass(frozen=True)
class Corpus:
    """Paths of the files that a run of the recipe needs, and flags for a short run."""

    base: Path
    folder: Path

    @property
    def vocab(self) -> Path:
        """The extended vocabulary."""
        return self.folder / "vocab.json"

    @property
    def train(self) -> Path:
        """The training manifest."""
        return self.folder / "am" / "train.csv"

    @property
    def val(self) -> Path:
        """The validation manifest."""
        return self.folder / "am" / "val.csv"

    @property
    def voice(self) -> Path:
        """A recording to use as reference voice."""
        return self.train.parent / "wavs" / "am_00001.wav"

    @property
    def english(self) -> Path:
        """An English manifest."""
        return self.folder / "en" / "metadata.csv"

    def flags(self, **flags: object) -> list[str]:
        """Return flags for a run on 12 utterances in batches of two: six steps per epoch.

        Args:
            flags: Flags to add or replace, with underscores; None omits a flag.
        """
        values: dict[str, object] = {
            "base_dir": self.base,
            "vocab": self.vocab,
            "language": "am",
            "train_manifest": self.train,
            "val_manifest": self.val,
            # All tests share these codes. Otherwise each run would encode the recordings.
            "codes": self.folder / "codes",
            "batch_size": 2,
            # Tests compare losses exactly. bfloat16 is tested separately.
            "amp": "none",
            "grad_accum_steps": 1,
            "learning_rate": 1e-3,
            "epochs": 2,
            "save_step": 1000,
            **flags,
        }
        return [part for key, value in values.items() if value is not None for part in as_flag(key, value)]

    def stock_flags(self, checkpoint: Path, **flags: object) -> list[str]:
        """Return flags that resume a stock run, without those whose values the checkpoint records."""
        recorded = dict.fromkeys(("batch_size", "learning_rate", "save_step", "amp", "grad_accum_steps"))
        return self.flags(checkpoint=checkpoint, **{"epochs": 3, **recorded, **flags})


def base_rows(corpus: Corpus) -> int:
    """Return the number of token rows of the base model."""
    return load_vocabulary(corpus.base / "vocab.json").size


def as_flag(key: str, value: object) -> list[str]:
    """Return a flag's command-line arguments; True means a flag without a value."""
    flag = f"--{key.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def only_run(folder: Path) -> Path:
    """Return the only run folder in an output folder."""
    (run,) = (entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    return run


def checkpoint(run: Path, step: int) -> dict:
    """Return the content of a run's `checkpoint_STEP.pth`."""
    return torch.load(run / f"checkpoint_{step}.pth", weights_only=True)


def write_metrics(run: Path, lines: Iterable[Mapping[str, object]]) -> None:
    """Write a run's `metrics.jsonl`."""
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def require_equal(ours: object, theirs: object, path: str = "") -> None:
    """Require that two nested states are exactly equal; the assertion message is the path of the first difference."""
    assert type(ours) is type(theirs), path
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), path
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            require_equal(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), path
        for index, (our_item, their_item) in enumerate(zip(ours, theirs, strict=True)):
            require_equal(our_item, their_item, f"{path}/{index}")
    else:
        assert ours == theirs, path


def require_same_run(one: Path, other: Path, step: int) -> None:
    """Require that two runs have equal checkpoints at a step, and equal metrics up to it."""
    a, b = checkpoint(one, step), checkpoint(other, step)
    for key in ("model", "optimizer", "scheduler", "scaler", "step", "epoch", "model_loss"):
        require_equal(a[key], b[key], key)
    require_equal(a["xtts_extend"]["state"], b["xtts_extend"]["state"], "state")
    texts = [(run / "metrics.jsonl").read_text(encoding="utf-8") for run in (one, other)]
    assert texts[0] == texts[1]
    steps = [line["step"] for line in map(json.loads, texts[0].splitlines()) if not line.get("eval")]
    assert steps == list(range(1, step + 1))


def model_and_config(run: Path) -> tuple[ExtendedGPTTrainer, NewLanguageConfig]:
    """Return a model as the recipe builds it for a resume, and the run's recorded configuration."""
    config = NewLanguageConfig()
    copy_recorded(config, checkpoint(run, 8)["config"])
    return ExtendedGPTTrainer(config), config


def stock_run(
    corpus: Corpus,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    from_base: str = "mean",
    command_line: Sequence[str] | None = None,
    evaluates: bool = False,
    **settings: object,
) -> Path:
    """Train five batches with coqui's own Trainer and GPTTrainer, and return the path of its `checkpoint_4.pth`.

    Args:
        corpus: The corpus to train on.
        output: Folder in which the run folder is created.
        monkeypatch: Patches stock's dataset to read audio without FFmpeg, and `sys.argv`.
        from_base: Initial rows of new tokens. "stock" draws random ones, as stock does when it loads the base model;
            "mean" uses the mean of the base's rows.
        command_line: Arguments that the Trainer parses; None disables parsing.
        evaluates: Whether to evaluate on the corpus' validation set.
        settings: Configuration values that replace those below, and `grad_accum_steps`.
    """
    # The first import sets torch to one thread, unless xtts_extend was imported before.
    from TTS.tts.layers.xtts.trainer import dataset
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer, GPTTrainerConfig

    xtts_extend.enable()
    monkeypatch.setattr(dataset, "load_audio", load_audio)
    args = TrainerArgs(grad_accum_steps=settings.pop("grad_accum_steps", 1))
    config = GPTTrainerConfig(**{
        "batch_size": 4, "lr": 1e-3, "optimizer": "AdamW", "optimizer_params": {"weight_decay": 0.01}, "save_step": 4,
        "optimizer_wd_only_on_weights": True, "lr_scheduler": "StepLR", "epochs": 2, "run_eval": evaluates,
        "lr_scheduler_params": {"step_size": 2, "gamma": 0.5}, "scheduler_after_epoch": False,
        # Each best model is a file of 300 MB.
        "save_best_after": 0 if evaluates else 100, **settings,
    })  # fmt: skip
    copy_architecture(config, read_json(corpus.base / "config.json"))
    use_base(config, corpus.base)
    config.model_args.tokenizer_file = str(corpus.vocab)
    weights = torch.load(corpus.base / "model.pth", weights_only=True)["model"]
    if from_base == "mean":
        weights = extend_token_tensors(weights, load_vocabulary(corpus.vocab).size, "mean", {}, seed=1)
    gpt, vocoder = (
        {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        for prefix in ("gpt.", "hifigan_decoder.")
    )
    config.model_args.gpt_checkpoint = str(output.with_name("gpt.pth"))
    torch.save(gpt, config.model_args.gpt_checkpoint)
    with BlankWeights():
        model = GPTTrainer(config)
    model.xtts.hifigan_decoder.load_state_dict(vocoder)
    monkeypatch.setattr("sys.argv", ["train_gpt_xtts.py", *(command_line or ())])
    handlers = list(logging.getLogger("trainer").handlers)
    stock = Trainer(
        args, config, output_path=output, model=model,
        train_samples=[sample.to_coqui() for sample in read_manifests([str(corpus.train)], "am")],
        eval_samples=[sample.to_coqui() for sample in read_manifests([str(corpus.val)], "am")] if evaluates else [],
        parse_command_line_args=command_line is not None,
    )  # fmt: skip
    stock._fit()
    stock.dashboard_logger.finish()
    # In a separate process, these handlers would be gone.
    for handler in set(logging.getLogger("trainer").handlers) - set(handlers):
        logging.getLogger("trainer").removeHandler(handler)
    return Path(stock.output_path) / "checkpoint_4.pth"


def stock_run_once(made_once: Callable[..., Path], name: str, corpus: Corpus, **given: Any) -> Path:
    """Return the checkpoint of a named `stock_run` that all workers share; read-only.

    The DVAE, two thirds of the file, is removed.
    """

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            file = stock_run(corpus, folder / "run", patch, **given)
        content = torch.load(file, weights_only=True)
        content["model"] = {name: value for name, value in content["model"].items() if not name.startswith("dvae.")}
        torch.save(content, file)

    (file,) = made_once(name, fill).glob("run/*/checkpoint_4.pth")
    return file


def configured(flags: Iterable[object]) -> tuple[Start, NewLanguageConfig]:
    """Return the recipe's start and configuration for some flags, with the vocabulary checked."""
    parsed = parse_flags([str(part) for part in flags])
    start = open_checkpoint(parsed, Ranks())
    config = resolve_config(parsed, start)
    validate_config(config, start)
    match_vocabulary(config, start)
    return start, config


def changed_vocabulary(
    vocab: Path,
    output: Path,
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    exchange: Mapping[str, str] | None = None,
) -> Path:
    """Write a vocabulary with tokens appended, removed or exchanged, and return its path.

    Args:
        vocab: The original vocabulary file.
        output: The file to write.
        add: Tokens to append.
        remove: Tokens to remove, with the merges that need them. Later ids move down by one each.
        exchange: Pairs of tokens that exchange their ids.
    """
    data = json.loads(vocab.read_text(encoding="utf-8"))
    tokens, merges = data["model"]["vocab"], [tuple(merge.split(" ")) for merge in data["model"]["merges"]]
    for token in remove:
        removed_id = tokens.pop(token)
        for other, number in tokens.items():
            tokens[other] = number - (number > removed_id)
        merges = [merge for merge in merges if token not in (*merge, "".join(merge))]
    for token in add:
        tokens[token] = max(tokens.values()) + 1
    for one, other in (exchange or {}).items():
        tokens[one], tokens[other] = tokens[other], tokens[one]
    for token in data["added_tokens"]:
        token["id"] = tokens[token["content"]]
    data["model"]["merges"] = [" ".join(merge) for merge in merges]
    output.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return output
