"""What a run measures and speaks between optimizer steps: losses per language, test sentences."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtts_extend.data.audio import load_audio, save_wav
from xtts_extend.data.sample import Sample
from xtts_extend.errors import DataError
from xtts_extend.model.gpt_trainer import ExtendedGPTTrainer
from xtts_extend.model.voice import REFERENCE_RATE, make_voice, speak
from xtts_extend.run.config import NewLanguageConfig, recordings
from xtts_extend.run.curves import read_curves
from xtts_extend.run.folder import SAMPLES
from xtts_extend.run.metrics import MEASURE, MetricsLog
from xtts_extend.run.ranks import Ranks
from xtts_extend.setup.reference import can_export_as_pack, old_languages
from xtts_extend.training.loaders import eval_loader
from xtts_extend.training.signals import Interrupted, StopSignal
from xtts_extend.training.state import RunState
from xtts_extend.training.update import out_of_memory_error

logger = logging.getLogger("trainer")


#: Losses by their names, and of an old language its retention, which comes after them.
Losses = dict[str, float]


def losses_by_language(
    model: ExtendedGPTTrainer,
    config: NewLanguageConfig,
    samples: Sequence[Sample],
    ranks: Ranks,
    stop: StopSignal | None = None,
) -> dict[str, Losses]:
    """Per language the losses of its evaluation samples; see `mean_losses`.

    Args:
        model, config, samples, ranks: of the run.
        stop: a signal ends the evaluation.

    Raises:
        Interrupted: a signal came; nothing of a part of an evaluation counts.
    """

    def batches(own: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        for batch in eval_loader(config, model.xtts.tokenizer, own, ranks):
            # several processes have to leave together, and do so after the evaluation
            if stop is not None and stop.number is not None and ranks.size == 1:
                raise Interrupted
            yield batch

    results = {}
    for language in sorted({sample.language for sample in samples}):
        own = [sample for sample in samples if sample.language == language]
        results[language] = mean_losses(model, batches(own), ranks)
    return results


def measure_base(
    model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: Sequence[Sample], ranks: Ranks
) -> dict[str, Losses]:
    """Per language the losses of a model that holds its base's weights, before a resume restores its own.

    Raises:
        MachineError: the memory does not suffice.
    """
    if torch.cuda.is_available():
        model.cuda()
    try:
        return losses_by_language(model, config, samples, ranks)
    except torch.OutOfMemoryError as error:
        raise out_of_memory_error(str(error)) from error


@torch.no_grad()
def mean_losses(model: ExtendedGPTTrainer, batches: Iterable[dict[str, Any]], ranks: Ranks) -> dict[str, float]:
    """The losses of an evaluation: sums over the tokens of all samples, divided by how many tokens these are.

    How the samples are batched does not matter, nor how many processes share them: in float32 the losses agree to
    1e-6 of their value. So there is no autocast here, and no prompt is masked, as coqui's own evaluation masks none.
    Its training leaves out the prompt of a batch's last sample, by its place in the batch. Leaving it out of every
    sample alike would leave nothing of most utterances: coqui counts the prompt in units of 256 samples where a code
    has 1,024.

    Args:
        model: it is put into evaluation mode.
        batches: collated, this process's share of the samples.
        ranks: the processes; each gets the losses of all samples.

    Returns:
        `loss_text_ce` (over text tokens) and `loss_mel_ce` (over audio codes and stops) with their weights, and their
        sum, `loss`.
    """
    model.eval()
    sums, counts = {"loss_text_ce": 0.0, "loss_mel_ce": 0.0}, {"loss_text_ce": 0, "loss_mel_ce": 0}
    for batch in batches:
        batch["cond_idxs"] = None
        batch = model.formatted(batch)
        losses, layout = model.train_step(batch, None)[1], batch["layout"]
        for name, count in (("loss_text_ce", layout.text_targets), ("loss_mel_ce", layout.audio_targets)):
            # in double precision from here on
            sums[name] += float(losses[name]) * count
            counts[name] += count
    totals = ranks.sum([*sums.values(), *counts.values()])
    means = {name: totals[place] / totals[place + len(sums)] for place, name in enumerate(sums)}
    return {**means, "loss": sum(means.values())}


def log_evaluation(
    state: RunState, lines: Mapping[str, Losses], metrics: MetricsLog, dashboard: Any
) -> dict[str, Losses]:
    """Write an evaluation to the metrics, the dashboard ("eval/LANG/loss_mel_ce" and so on) and the log.

    Args:
        state: of the run.
        lines: the losses of each language.
        metrics, dashboard: of the run.

    Returns:
        The losses, and of old languages the retention: the base's mel loss over that of the model, which is the base
        with all that was learned merged into it. Where that can be kept in a pack, `retention_in_folder` is 1: beside
        a pack the base itself speaks them.
    """
    position, lines = state.position, {language: dict(values) for language, values in lines.items()}
    if position.step == 0 and not position.base_losses:
        record_base_losses(state, lines)
    weight = state.config.model_args.gpt_loss_mel_ce_weight
    apart = {"retention_in_folder": 1.0} if can_export_as_pack(state.model, state.train_samples) else {}
    for language in position.base_losses.keys() & lines.keys():
        retention = position.base_losses[language] * weight / lines[language]["loss_mel_ce"]
        lines[language] |= {"retention": retention, **apart}
    for language, values in lines.items():
        metrics.add(eval=True, measure=MEASURE, step=position.step, epoch=position.epoch, language=language, **values)
        scalars = {f"{language}/{name}": value for name, value in values.items()}
        dashboard.add_scalars("eval", scalars, position.step)
        logger.info(" > EVAL step %d · %s · %s", position.step, language, _format_losses(values))
    metrics.flush()
    curves = read_curves(metrics.path, None, state.config.language)
    for name, reason in (curves.new_findings() if curves else {}).items():
        logger.warning(" > %s: %s", name, reason)
    return lines


def _format_losses(values: Losses) -> str:
    shown = " · ".join(f"{name} {value:.4f}" for name, value in values.items() if name != "retention_in_folder")
    if "retention_in_folder" not in values:
        return shown
    return f"{shown} merged · {values['retention_in_folder']:g} in the folder"


def record_base_losses(state: RunState, lines: Mapping[str, Losses]) -> None:
    """Remember the mel losses of the languages that the base knew, measured while the model held its weights."""
    weight = state.config.model_args.gpt_loss_mel_ce_weight
    for language in old_languages(lines, state.model, state.config) if weight else ():
        # without its weight, which may change
        state.position.base_losses[language] = lines[language]["loss_mel_ce"] / weight


def speak_test_sentences(state: RunState, run: Path, dashboard: Any) -> None:
    """Speak the configuration's test sentences, for the dashboard by coqui's names, and as files in the run folder.

    As coqui's `GPTTrainer.test_run`, with reference voices that are read without FFmpeg.
    """
    rate, step = state.config.model_args.output_sample_rate, state.position.step
    try:
        audios = _spoken(state)
        for (name, audio), sentence in zip(audios.items(), state.config.test_sentences, strict=True):
            number = name.split("-")[0]
            save_wav(run / SAMPLES / f"{step:08d}-{number}-{sentence['language']}.wav", audio, rate)
        dashboard.test_audios(step, audios, rate)
    except DataError as error:
        logger.warning(" > the test sentences were not spoken: %s", error)


def _spoken(state: RunState) -> dict[str, Any]:
    """Audio (samples,) for each of the test sentences."""
    state.model.eval()
    xtts = state.model.xtts
    # the vocoder is where nothing trains
    xtts.hifigan_decoder.to(state.device)
    xtts.gpt.init_gpt_for_inference(kv_cache=state.config.model_args.kv_cache, use_deepspeed=False)
    xtts.gpt.eval()
    audios = {}
    try:
        for index, sentence in enumerate(state.config.test_sentences):
            files = recordings(sentence)
            voice = make_voice(
                xtts, [load_audio(file, REFERENCE_RATE) for file in files], [str(file) for file in files]
            )
            parts = [out["wav"] for _, out in speak(xtts, sentence["text"], sentence["language"], voice)]
            audios[f"{index}-audio"] = np.concatenate(parts)
    finally:
        # as in coqui: these are second names of the transformer, and would be saved
        del xtts.gpt.gpt_inference
        del xtts.gpt.gpt.wte
        xtts.hifigan_decoder.cpu()
    return audios
