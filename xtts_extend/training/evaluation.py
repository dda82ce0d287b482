"""Evaluation between optimizer steps: losses by language, retention, and synthesized test sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from xtts_extend.training.state import RunState
from xtts_extend.training.update import out_of_memory_error

logger = logging.getLogger("trainer")


#: Losses by name, plus the retention if the language is an old one.
Losses = dict[str, float]


def losses_by_language(
    model: ExtendedGPTTrainer,
    config: NewLanguageConfig,
    samples: Sequence[Sample],
    ranks: Ranks,
    stop_if_asked: Callable[[], None] | None = None,
) -> dict[str, Losses]:
    """Return the mean losses of the validation set, by language; see `mean_losses`.

    Args:
        model: The model to evaluate; it is put into evaluation mode.
        config: The run's configuration.
        samples: The encoded validation set.
        ranks: The processes that share the samples.
        stop_if_asked: Function that is called between batches and raises `Stopped` to interrupt the evaluation.

    Raises:
        Stopped: Raised by `stop_if_asked`. A partial evaluation is discarded.
    """

    def batches(language_samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        for batch in eval_loader(config, model.xtts.tokenizer, language_samples, ranks):
            # Multiple processes have to stop together, so they stop after the evaluation.
            if stop_if_asked is not None and ranks.size == 1:
                stop_if_asked()
            yield batch

    results = {}
    for language in sorted({sample.language for sample in samples}):
        language_samples = [sample for sample in samples if sample.language == language]
        results[language] = mean_losses(model, batches(language_samples), ranks)
    return results


def measure_base(
    model: ExtendedGPTTrainer, config: NewLanguageConfig, samples: Sequence[Sample], ranks: Ranks
) -> dict[str, Losses]:
    """Return the losses by language of a model that still holds its base model's weights.

    When a run is resumed, call this before the checkpoint's weights are restored.

    Args:
        model: The model with the base model's weights; it is moved to the GPU if there is one.
        config: The run's configuration.
        samples: The encoded validation set.
        ranks: The processes that share the samples.

    Raises:
        MachineError: The GPU is out of memory.
    """
    if torch.cuda.is_available():
        model.cuda()
    try:
        return losses_by_language(model, config, samples, ranks)
    except torch.OutOfMemoryError as error:
        raise out_of_memory_error(str(error)) from error


@torch.no_grad()
def mean_losses(model: ExtendedGPTTrainer, batches: Iterable[dict[str, Any]], ranks: Ranks) -> dict[str, float]:
    """Return the mean losses per token over all samples.

    The result depends neither on the batch size nor on the number of processes: in float32, losses agree to within a
    relative error of 1e-6. For this reason, autocast is not used and no prompt is masked; coqui's own evaluation does
    not mask prompts either. coqui's training masks the prompt of the last sample of each batch. Masking it in every
    sample would leave most utterances without targets, because coqui counts the prompt in units of 256 audio samples,
    and a code covers 1,024.

    Args:
        model: The model to evaluate; it is put into evaluation mode.
        batches: Collated batches with this process's share of the samples.
        ranks: The processes that share the samples; each process gets the losses over all samples.

    Returns:
        `loss_text_ce` (per text token) and `loss_mel_ce` (per audio code, stop codes included), each multiplied by its
        weight, and their sum `loss`.
    """
    model.eval()
    sums, counts = {"loss_text_ce": 0.0, "loss_mel_ce": 0.0}, {"loss_text_ce": 0, "loss_mel_ce": 0}
    for batch in batches:
        batch["cond_idxs"] = None
        batch = model.formatted(batch)
        losses, layout = model.train_step(batch, None)[1], batch["layout"]
        for name, count in (("loss_text_ce", layout.text_targets), ("loss_mel_ce", layout.audio_targets)):
            # Python floats sum in double precision.
            sums[name] += float(losses[name]) * count
            counts[name] += count
    totals = ranks.sum([*sums.values(), *counts.values()])
    means = {name: totals[index] / totals[index + len(sums)] for index, name in enumerate(sums)}
    return {**means, "loss": sum(means.values())}


def log_evaluation(
    state: RunState, losses: Mapping[str, Losses], metrics: MetricsLog, dashboard: Any
) -> dict[str, Losses]:
    """Write an evaluation to the metrics, the dashboard ("eval/LANG/loss_mel_ce" etc.) and the log.

    Args:
        state: The run's state.
        losses: Losses by language.
        metrics: The run's metrics log.
        dashboard: The run's dashboard logger.

    Returns:
        The losses by language. Old languages also get `retention`: the base model's mel loss divided by this model's.
        If the run can be exported as a language pack, they also get `retention_in_folder`, which is always 1, because
        the unchanged base model in a model folder still speaks the old languages.
    """
    position, losses = state.position, {language: dict(values) for language, values in losses.items()}
    if position.step == 0 and not position.base_losses:
        record_base_losses(state, losses)
    weight = state.config.model_args.gpt_loss_mel_ce_weight
    in_folder = {"retention_in_folder": 1.0} if can_export_as_pack(state.model, state.train_samples) else {}
    for language in position.base_losses.keys() & losses.keys():
        retention = position.base_losses[language] * weight / losses[language]["loss_mel_ce"]
        losses[language] |= {"retention": retention, **in_folder}
    for language, values in losses.items():
        metrics.add(eval=True, measure=MEASURE, step=position.step, epoch=position.epoch, language=language, **values)
        scalars = {f"{language}/{name}": value for name, value in values.items()}
        dashboard.add_scalars("eval", scalars, position.step)
        logger.info(" > EVAL step %d · %s · %s", position.step, language, _format_losses(values))
    metrics.flush()
    curves = read_curves(metrics.path, None, state.config.language)
    for name, reason in (curves.new_findings() if curves else {}).items():
        logger.warning(" > %s: %s", name, reason)
    return losses


def _format_losses(values: Losses) -> str:
    shown = " · ".join(f"{name} {value:.4f}" for name, value in values.items() if name != "retention_in_folder")
    if "retention_in_folder" not in values:
        return shown
    return f"{shown} merged · {values['retention_in_folder']:g} in the model folder"


def record_base_losses(state: RunState, losses: Mapping[str, Losses]) -> None:
    """Record the base model's mel losses on the old languages in the run's position.

    Args:
        state: The run's state; its position is updated.
        losses: Losses by language, measured while the model held the base model's weights.
    """
    weight = state.config.model_args.gpt_loss_mel_ce_weight
    for language in old_languages(losses, state.model, state.config) if weight else ():
        # The losses are stored unweighted, because the weight may change during the run.
        state.position.base_losses[language] = losses[language]["loss_mel_ce"] / weight


def speak_test_sentences(state: RunState, run: Path, dashboard: Any) -> None:
    """Synthesize the configuration's test sentences for the dashboard, and save them as WAV files in the run folder.

    This does what coqui's `GPTTrainer.test_run` does, but it reads the reference voices without FFmpeg.

    Args:
        state: The run's state.
        run: The run folder.
        dashboard: The run's dashboard logger, which gets the audio under coqui's names.
    """
    rate, step = state.config.model_args.output_sample_rate, state.position.step
    try:
        audios = _synthesize_test_sentences(state)
        for (name, audio), sentence in zip(audios.items(), state.config.test_sentences, strict=True):
            number = name.split("-")[0]
            save_wav(run / SAMPLES / f"{step:08d}-{number}-{sentence['language']}.wav", audio, rate)
        dashboard.test_audios(step, audios, rate)
    except DataError as error:
        logger.warning(" > Continuing training without the test sentences: %s", error)


def _synthesize_test_sentences(state: RunState) -> dict[str, Any]:
    """Return the audio of the test sentences as arrays of shape (samples,), keyed by coqui's names."""
    state.model.eval()
    xtts = state.model.xtts
    # The vocoder is not trained, so it stays on the CPU except during synthesis.
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
            chunks = [out["wav"] for _, out in speak(xtts, sentence["text"], sentence["language"], voice)]
            audios[f"{index}-audio"] = np.concatenate(chunks)
    finally:
        # coqui deletes these too, because they are aliases of the transformer's modules and would end up in
        # checkpoints.
        del xtts.gpt.gpt_inference
        del xtts.gpt.gpt.wte
        xtts.hifigan_decoder.cpu()
    return audios
