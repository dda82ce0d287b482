"""The README of an exported folder: a model card, as the Hugging Face Hub reads it."""

from __future__ import annotations

from xtts_extend.pack.pack_info import PackInfo

_FOLDER = """---
language:
- "{language}"
license: other
library_name: coqui
pipeline_tag: text-to-speech
tags:
- xtts
- xtts_extend
---

# XTTS with a language pack: {language}

The base's own files, and `packs/{language}.safetensors`: what a run learned beside them. Every language of the base
sounds exactly as in the base, sample for sample. `{language}` needs one line, `xtts_extend.enable()`; without it the
folder is the base.

```python
import xtts_extend; xtts_extend.enable()
from TTS.tts.configs.xtts_config import XttsConfig; from TTS.tts.models.xtts import Xtts

config = XttsConfig(); config.load_json("config.json")
model = Xtts(config); model.load_checkpoint(config, checkpoint_dir=".", strict=True)
```

Then `model.synthesize("…", speaker_wav="voice.wav", language="{language}")["wav"]` is audio; `TTS.api.TTS` works as
well. Or, from the command line and without FFmpeg:

    xtts-extend speak --model . --language {language} --reference voice.wav --text "…" --output hello.wav

Other people's packs of the same base are added with `xtts-extend pack add FILE --model .`.

## Training

| | |
| --- | --- |
| steps | {steps} |
| recordings | {recordings} |
| validation mel loss in {language} | {losses} |
| started from | {start} |
| replay of old languages | {replay} |
| new tokens | {tokens} |
| pack | {dtype}, {rank} |
| made | {created}, xtts_extend {version} |

## Licence

The licence of the base model holds for the base and for what was trained from it. Recordings: {licence}.
"""

_MERGED = """# XTTS with {language}, merged

A plain XTTS model folder, exported at step {step}: one set of weights for all languages. The languages of the base have
changed, because the transformer that they share has; a folder with a language pack (`xtts-extend export` without
`--merged`) keeps them exactly. For {language}, coqui's tokenizer needs one line, `xtts_extend.enable()`; the
languages of the base work without it.

```python
import xtts_extend; xtts_extend.enable()
from TTS.tts.configs.xtts_config import XttsConfig; from TTS.tts.models.xtts import Xtts

config = XttsConfig(); config.load_json("config.json")
model = Xtts(config); model.load_checkpoint(config, checkpoint_dir=".", strict=True)
```

Then `model.synthesize("…", speaker_wav="voice.wav", language="{language}")["wav"]` is audio at {rate} Hz. Or, from the
command line and without FFmpeg:

    xtts-extend speak --model . --language {language} --reference voice.wav --text "…" --output hello.wav

The licence of the base model holds for this model as well.
"""


def folder_card(info: PackInfo) -> str:
    """Of a model folder with one pack."""
    training = info.training
    hours = [f"{code} {hours:.2f} h ({training.utterances.get(code, 0)})" for code, hours in training.hours.items()]
    losses = " → ".join(f"{loss:.3f} ({name})" for name, loss in training.losses.items())
    return _FOLDER.format(
        language=info.language,
        steps=training.steps,
        recordings=", ".join(hours) or "not recorded",
        losses=losses or "not measured",
        start=f"the pack of {training.began_with}" if training.began_with else "the base",
        replay="yes" if training.replay else "no",
        tokens=len(info.vocabulary.entries),
        dtype=info.dtype,
        rank=f"rank {info.rank}" if info.rank else "whole",
        created=info.created,
        version=training.xtts_extend,
        licence=info.licence or "not stated",
    )


def merged_card(language: str, step: int, rate: int) -> str:
    """Of a folder with one set of weights."""
    return _MERGED.format(language=language, step=step, rate=rate)
