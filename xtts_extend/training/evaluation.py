"""What a run measures and speaks between optimizer steps: losses per language, test sentences."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.errors import DataError
from xtts_extend.model.voice import REFERENCE_RATE, make_voice, speak
from xtts_extend.text.languages import language_tag
from xtts_extend.training.config import recordings
from xtts_extend.training.curves import read_curves
from xtts_extend.training.signals import Interrupted

logger = logging.getLogger("trainer")
_LOSSES = ("loss_text_ce", "loss_mel_ce", "loss")


@torch.no_grad()
def losses_by_language(trainer: Any) -> dict[str, dict[str, float]]:
    """Per language the mean of each loss over its evaluation samples.

    Raises:
        Interrupted: a signal came; nothing of a part of an evaluation counts.
    """
    trainer.model.eval()
    results = {}
    for language in sorted({sample["language"] for sample in trainer.eval_samples}):
        samples = [sample for sample in trainer.eval_samples if sample["language"] == language]

        def losses_of(batch: dict[str, Any]) -> Mapping[str, float]:
            # several processes have to leave together, and do so after the evaluation
            if trainer.stop.number is not None and trainer.ranks.size == 1:
                raise Interrupted
            losses: Mapping[str, float] = trainer.eval_step(trainer.format_batch(batch), 0)[1]
            return losses

        means = mean_losses(trainer.get_eval_dataloader(samples), losses_of, len(samples))
        results[language] = dict(zip(means, trainer.ranks.sum(list(means.values())), strict=True))
    return results


def mean_losses(
    batches: Iterable[dict[str, Any]], losses_of: Callable[[dict[str, Any]], Mapping[str, Any]], samples: int
) -> dict[str, float]:
    """Sums of each loss over the batches, each with as many samples as it has, divided by the number of all samples."""
    sums = dict.fromkeys(_LOSSES, 0.0)
    for batch in batches:
        count = len(batch["samples"])
        losses = losses_of(batch)
        for name in _LOSSES:
            sums[name] += float(losses[name]) * count
    return {name: value / samples for name, value in sums.items()}


def evaluate(trainer: Any) -> dict[str, dict[str, float]]:
    """Losses of each language, and of the old ones the retention: the base's mel loss over the model's.

    They are written to the metrics, the dashboard ("eval/LANG/loss_mel_ce" and so on) and the log.
    """
    position = trainer.position
    lines = losses_by_language(trainer)
    if position.step == 0:
        note_base_losses(trainer, lines)
    weight = trainer.config.model_args.gpt_loss_mel_ce_weight
    for language in position.base_losses.keys() & lines.keys():
        lines[language]["retention"] = position.base_losses[language] * weight / lines[language]["loss_mel_ce"]
    for language, values in lines.items():
        trainer.metrics.add(eval=True, step=position.step, epoch=position.epoch, language=language, **values)
        scalars = {f"{language}/{name}": value for name, value in values.items()}
        trainer.dashboard_logger.add_scalars("eval", scalars, position.step)
        shown = " · ".join(f"{name} {value:.4f}" for name, value in values.items())
        logger.info(" > EVAL step %d · %s · %s", position.step, language, shown)
    trainer.metrics.flush()
    curves = read_curves(trainer.metrics.path, None, getattr(trainer.config, "language", ""))
    for name, reason in (curves.onset() if curves else {}).items():
        logger.warning(" > %s: %s", name, reason)
    return lines


def note_base_losses(trainer: Any, lines: Mapping[str, Mapping[str, float]]) -> None:
    """Remember the mel losses of the languages that the base knew, measured while the model holds its weights."""
    weight = trainer.config.model_args.gpt_loss_mel_ce_weight
    for language in old_languages(lines, trainer.model, trainer.config) if weight else ():
        # without its weight, which may change
        trainer.position.base_losses[language] = lines[language]["loss_mel_ce"] / weight


def old_languages(languages: Iterable[str], model: Any, config: Any) -> list[str]:
    """Those of the languages that the base knew: their tag is a token of it, and they are not the one to learn."""
    tokens, learned = model.xtts.tokenizer.tokenizer, getattr(config, "language", "")
    return [
        language
        for language in languages
        if language != learned and tokens.token_to_id(language_tag(language)) < model.base_rows
    ]


def value_of(lines: Mapping[str, Mapping[str, float]], config: Any, train_loss: float) -> float:
    """The loss by which a model is the best: of the language to learn; without an evaluation, of the training.

    It is infinite where an old language keeps less than `min_retention`.
    """
    least = getattr(config, "min_retention", None) or 0
    kept = {language: values["retention"] for language, values in lines.items() if "retention" in values}
    lost = [f"{language} {value:.4f}" for language, value in kept.items() if value < least]
    if lost:
        logger.info(" > no candidate for the best model: too little is kept (of %g): %s", least, ", ".join(lost))
        return math.inf
    values = lines.get(getattr(config, "language", "")) or next(iter(lines.values()), {"loss": train_loss})
    return values["loss"]


#: Folder of a run with its test sentences, as STEP-NUMBER-LANG.wav.
SAMPLES = "samples"


def speak_test_sentences(trainer: Any) -> None:
    """Speak the configuration's test sentences, for the dashboard by coqui's names, and as files in the run folder.

    As coqui's `GPTTrainer.test_run`, with reference voices that are read without FFmpeg.
    """
    rate = trainer.config.model_args.output_sample_rate
    try:
        audios = _spoken(trainer)
        for (name, audio), sentence in zip(audios.items(), trainer.config.test_sentences, strict=True):
            number = name.split("-")[0]
            save_wav(
                trainer.output_path / SAMPLES / f"{trainer.position.step:08d}-{number}-{sentence['language']}.wav",
                audio,
                rate,
            )
        trainer.dashboard_logger.test_audios(trainer.position.step, audios, rate)
    except DataError as error:
        logger.warning(" > the test sentences were not spoken: %s", error)


def _spoken(trainer: Any) -> dict[str, Any]:
    """Audio (samples,) for each of the test sentences."""
    trainer.model.eval()
    xtts = trainer.model.xtts
    device = next(xtts.gpt.parameters()).device
    # the vocoder is where nothing trains
    xtts.hifigan_decoder.to(device)
    xtts.gpt.init_gpt_for_inference(kv_cache=trainer.config.model_args.kv_cache, use_deepspeed=False)
    xtts.gpt.eval()
    audios = {}
    try:
        for index, sentence in enumerate(trainer.config.test_sentences):
            voice = make_voice(xtts, [load_audio(file, REFERENCE_RATE) for file in recordings(sentence)])
            parts = [out["wav"] for _, out in speak(xtts, sentence["text"], sentence["language"], voice)]
            audios[f"{index}-audio"] = np.concatenate(parts)
    finally:
        # as in coqui: these are second names of the transformer, and would be saved
        del xtts.gpt.gpt_inference
        del xtts.gpt.gpt.wte
        xtts.hifigan_decoder.cpu()
    return audios
