"""The recipe without dropout, in one process or below torchrun, that keeps its first gradients and last weights."""

import os
import runpy
import sys
from pathlib import Path

import torch

from xtts_extend.recipes import find_recipe
from xtts_extend.training import trainer as trainer_module

output, recipe_arguments = Path(sys.argv[1]), sys.argv[2:]
RECIPE = find_recipe()
kept = {}
rank = os.environ.get("RANK", "0")


class Probe(trainer_module.Updater):
    def __init__(self, state, hooks):
        super().__init__(state, hooks)
        self.gpt = state.model.xtts.gpt

    def step(self, batch, names, loader, *, completes_update):
        for module in self.gpt.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return super().step(batch, names, loader, completes_update=completes_update)

    def _optimizer_step(self):
        if "gradients" not in kept:
            trained = [(name, part) for name, part in self.gpt.named_parameters() if part.requires_grad]
            kept["gradients"] = {name: part.grad.clone() for name, part in trained}
        super()._optimizer_step()
        kept["weights"] = {name: part.detach().clone() for name, part in self.gpt.named_parameters()}


trainer_module.Updater = Probe
sys.argv = [str(RECIPE), *recipe_arguments]
runpy.run_path(str(RECIPE), run_name="__main__")
output.mkdir(exist_ok=True)
torch.save(kept, output / f"rank{rank}.pt")
