"""What a run measures and speaks between optimizer steps: losses per language, test sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from xtts_extend.data.audio import load_audio
from xtts_extend.model.voice import REFERENCE_RATE, make_voice, speak
from xtts_extend.training.signals import Interrupted

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
        sums: dict[str, float] = {}
        for batch in trainer.get_eval_dataloader(samples):
            # several processes have to leave together, and do so after the evaluation
            if trainer.stop.number is not None and trainer.ranks.size == 1:
                raise Interrupted
            count = len(batch["samples"])
            _, losses = trainer.eval_step(trainer.format_batch(batch), 0)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count
        totals = trainer.ranks.sum([sums.get(name, 0.0) for name in _LOSSES])
        results[language] = {name: value / len(samples) for name, value in zip(_LOSSES, totals, strict=True)}
    return results


def speak_test_sentences(trainer: Any) -> dict[str, Any]:
    """coqui's `GPTTrainer.test_run`, with reference voices that are read without FFmpeg.

    Returns:
        Audio (samples,) for each of the configuration's test sentences, by coqui's names.
    """
    trainer.model.eval()
    xtts = trainer.model.xtts
    xtts.gpt.init_gpt_for_inference(kv_cache=trainer.config.model_args.kv_cache, use_deepspeed=False)
    xtts.gpt.eval()
    audios = {}
    try:
        for index, sentence in enumerate(trainer.config.test_sentences):
            voice = make_voice(xtts, [load_audio(sentence["speaker_wav"], REFERENCE_RATE)])
            parts = [out["wav"] for _, out in speak(xtts, sentence["text"], sentence["language"], voice)]
            audios[f"{index}-audio"] = np.concatenate(parts)
    finally:
        # as in coqui: these are second names of the transformer, and would be saved
        del xtts.gpt.gpt_inference
        del xtts.gpt.gpt.wte
    return audios
