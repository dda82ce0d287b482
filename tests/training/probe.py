"""Run the recipe without dropout, in one process or under torchrun, and save its first gradients and last weights.

    probe.py OUTPUT FLAGS…

Each process writes `OUTPUT/rankN.pt`.
"""

import os
import runpy
import sys
from pathlib import Path

import torch

from xtts_extend.recipes import find_recipe
from xtts_extend.training import trainer as trainer_module

output, recipe_arguments = Path(sys.argv[1]), sys.argv[2:]
RECIPE = find_recipe()
captured = {}
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
        parameters = dict(self.gpt.named_parameters())
        if "gradients" not in captured:
            captured["gradients"] = {name: part.grad.clone() for name, part in parameters.items() if part.requires_grad}
        super()._optimizer_step()
        captured["weights"] = {name: part.detach().clone() for name, part in parameters.items()}


trainer_module.Updater = Probe
sys.argv = [str(RECIPE), *recipe_arguments]
runpy.run_path(str(RECIPE), run_name="__main__")
output.mkdir(exist_ok=True)
torch.save(captured, output / f"rank{rank}.pt")
