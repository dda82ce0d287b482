"""Write the README of an exported folder, which is a model card for the Hugging Face Hub."""

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

This folder contains the files of the base model and a language pack, `packs/{language}.safetensors`. Every language of
the base model sounds exactly as before, sample for sample. To use `{language}`, call `xtts_extend.enable()` first;
without this call, the folder works like the base model.

```python
import xtts_extend; xtts_extend.enable()
from TTS.tts.configs.xtts_config import XttsConfig; from TTS.tts.models.xtts import Xtts

config = XttsConfig(); config.load_json("config.json")
model = Xtts(config); model.load_checkpoint(config, checkpoint_dir=".", strict=True)
```

Then `model.synthesize("…", speaker_wav="voice.wav", language="{language}")["wav"]` returns the audio. `TTS.api.TTS`
works as well. Or use the command line, which does not need FFmpeg:

    xtts-extend speak --model . --language {language} --reference voice.wav --text "…" --output hello.wav

To add another pack for the same base model, run `xtts-extend pack add FILE --model .`.

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
| created | {created}, xtts_extend {version} |

## License

The base model's license applies to the base model and to the weights trained from it. License of the recordings:
{licence}.
"""

_MERGED = """# XTTS with {language}, merged

This is a plain XTTS model folder with one set of weights for all languages, exported at step {step}. The output
in the base model's languages has changed, because all languages share the transformer. A folder with a language pack
(`xtts-extend export` without `--merged`) leaves it exactly as it was. To use {language}, call `xtts_extend.enable()`
first; the languages of the base model work without it.

```python
import xtts_extend; xtts_extend.enable()
from TTS.tts.configs.xtts_config import XttsConfig; from TTS.tts.models.xtts import Xtts

config = XttsConfig(); config.load_json("config.json")
model = Xtts(config); model.load_checkpoint(config, checkpoint_dir=".", strict=True)
```

Then `model.synthesize("…", speaker_wav="voice.wav", language="{language}")["wav"]` returns the audio at {rate:,} Hz. Or
use the command line, which does not need FFmpeg:

    xtts-extend speak --model . --language {language} --reference voice.wav --text "…" --output hello.wav

The base model's license applies to this model as well.
"""


def folder_card(info: PackInfo) -> str:
    """Return the model card of a folder with one language pack."""
    training = info.training
    hours = [f"{code} {hours:.2f} h ({training.utterances.get(code, 0)})" for code, hours in training.hours.items()]
    losses = " → ".join(f"{loss:.3f} ({name})" for name, loss in training.losses.items())
    return _FOLDER.format(
        language=info.language,
        steps=training.steps,
        recordings=", ".join(hours) or "not recorded",
        losses=losses or "not measured",
        start=f"the pack for {training.began_with}" if training.began_with else "the base model",
        replay="yes" if training.replay else "no",
        tokens=len(info.vocabulary.entries),
        dtype=info.dtype,
        rank=f"rank {info.rank}" if info.rank else "full rank",
        created=info.created,
        version=training.xtts_extend,
        licence=info.licence or "not stated",
    )


def merged_card(language: str, step: int, rate: int) -> str:
    """Return the model card of a folder with merged weights.

    Args:
        language: Code of the new language.
        step: Step of the exported checkpoint.
        rate: Sample rate of the output in Hz.
    """
    return _MERGED.format(language=language, step=step, rate=rate)
