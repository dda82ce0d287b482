"""coqui's `GPTTrainer` and its configuration, without what importing them does to torch.

coqui's XTTS dataset module, which this import runs, sets torch to one thread for the whole process.
"""

from __future__ import annotations

import torch

_threads = torch.get_num_threads()
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer, GPTTrainerConfig  # noqa: E402

torch.set_num_threads(_threads)

__all__ = ["GPTTrainer", "GPTTrainerConfig"]
