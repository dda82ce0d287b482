"""Importing the package has no side effects. One new process checks everything, because its imports take seconds."""

import os
import subprocess
import sys

import pytest

CODE = """
import TTS.tts.layers.xtts.tokenizer as t, TTS.tts.models.xtts as x
T = t.VoiceBpeTokenizer
def now():
    limits = T.__dict__.get("char_limits")
    return (T.preprocess_text, T.encode, limits, t.split_sentence, x.split_sentence, x.Xtts.synthesize)
before, members = now(), dict(vars(T))
import xtts_extend, xtts_extend.text.languages, xtts_extend.text.tokenizer, xtts_extend.text.extend, xtts_extend.cli
assert now() == before and dict(vars(T)) == members

# Importing coqui's XTTS dataset sets torch to one thread.
import sys, torch
assert "TTS.tts.layers.xtts.trainer.dataset" not in sys.modules
assert torch.get_num_threads() == 2
import xtts_extend.model.gpt_trainer
assert torch.get_num_threads() == 2, torch.get_num_threads()
import TTS.tts.layers.xtts.trainer.dataset
assert now() == before and dict(vars(T)) == members

early = T()
xtts_extend.enable()
once = now()
assert all(new is not old for new, old in zip(once, before))
xtts_extend.enable()
assert now() == once
assert early.char_limits["am"] == 130 and early.char_limits["fr"] == 273
assert early.preprocess_text("ሰላም።", "am") == "ሰላም."
"""


@pytest.mark.slow
def test_imports_patch_nothing_and_keep_the_number_of_threads():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
