"""The recipe without dropout, in one process or below torchrun, that keeps its first gradients and last weights.

Its utterances get one length: coqui's DVAE gives other codes at an end that is padded than at one that is not, so that
the codes depend on what else is in the batch.
"""

import os
import runpy
import sys
from pathlib import Path

import torch

from xtts_extend.data import dataset
from xtts_extend.training import trainer as trainer_module

output, recipe_arguments = Path(sys.argv[1]), sys.argv[2:]
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "new_language" / "train_gpt_xtts.py"
kept = {}
rank = os.environ.get("RANK", "0")


def same_length(path, rate):
    audio = load_audio(path, rate)
    return torch.nn.functional.pad(audio, (0, 2 * rate))[:, : 2 * rate]


class Probe(trainer_module.Updater):
    def __init__(self, trainer, ranks):
        super().__init__(trainer, ranks)
        self.gpt = trainer.model.xtts.gpt

    def step(self, batch, names, *, moves):
        for module in self.gpt.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return super().step(batch, names, moves=moves)

    def _move(self, names):
        if "gradients" not in kept:
            kept["gradients"] = {name: part.grad.clone() for name, part in self.gpt.named_parameters()}
        super()._move(names)
        kept["weights"] = {name: part.detach().clone() for name, part in self.gpt.named_parameters()}


load_audio = dataset.load_audio
dataset.load_audio = same_length
trainer_module.Updater = Probe
sys.argv = [str(RECIPE), *recipe_arguments]
runpy.run_path(str(RECIPE), run_name="__main__")
output.mkdir(exist_ok=True)
torch.save(kept, output / f"rank{rank}.pt")
