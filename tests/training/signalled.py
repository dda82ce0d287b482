"""The recipe, with a signal to itself at a chosen place: real, and always at the same instant.

    signalled.py SIGNAL PLACE:STEP FLAGS…

PLACE is `step` (the batch is trained, nothing of what falls due is served yet), `twice` (there, and at once again),
`evaluation` (it is complete), or `write` (a checkpoint is being written).
"""

import os
import runpy
import sys

import torch

from xtts_extend.recipes import find_recipe
from xtts_extend.training.pace import Progress
from xtts_extend.training.trainer import ResumableTrainer

number = int(sys.argv[1])
place, _, step = sys.argv[2].partition(":")
RECIPE = find_recipe()


def signal_at(where, now):
    if (where, now) == (place, int(step)):
        for _ in range(2 if place == "twice" else 1):
            os.kill(os.getpid(), number)


def after(function, where, now):
    def wrapped(*arguments, **named):
        result = function(*arguments, **named)
        signal_at(where, now(*arguments))
        return result

    return wrapped


def half_written(content, file):
    if isinstance(content, dict) and content.get("step") == int(step):
        file.write(b"half of it")
        file.flush()
        signal_at("write", content["step"])
        file.seek(0)
    save(content, file)


save = torch.save
torch.save = half_written if place == "write" else save
# asked after each step
Progress.is_due = after(Progress.is_due, "twice" if place == "twice" else "step", lambda progress, step: step)
ResumableTrainer.save_best_model = after(
    ResumableTrainer.save_best_model, "evaluation", lambda trainer: trainer.position.step
)
sys.argv = [str(RECIPE), *sys.argv[3:]]
runpy.run_path(str(RECIPE), run_name="__main__")
