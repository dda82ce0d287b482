"""Import coqui's `GPTTrainer` and its configuration without changing torch's number of threads.

The import also loads coqui's XTTS dataset module, which limits torch to one thread in the entire process.
"""

from __future__ import annotations

import torch

_threads = torch.get_num_threads()
from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer, GPTTrainerConfig  # noqa: E402

torch.set_num_threads(_threads)

__all__ = ["GPTTrainer", "GPTTrainerConfig"]
