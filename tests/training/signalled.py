"""Run the recipe, and send this process a signal at a chosen point, which is the same in every run.

    signalled.py SIGNAL POINT:STEP FLAGS…

POINT is `step` (after the batch, before any evaluation or checkpoint), `twice` (the same, with two signals),
`evaluation` (after the evaluation), or `write` (in the middle of writing a checkpoint).
"""

import os
import runpy
import sys

import torch

from xtts_extend.recipes import find_recipe
from xtts_extend.training.pace import Progress
from xtts_extend.training.trainer import ResumableTrainer

number = int(sys.argv[1])
point, _, step = sys.argv[2].partition(":")
RECIPE = find_recipe()


def signal_at(current_point, current_step):
    if (current_point, current_step) == (point, int(step)):
        for _ in range(2 if point == "twice" else 1):
            os.kill(os.getpid(), number)


def signal_after(function, current_point, current_step):
    def wrapped(*arguments, **named):
        result = function(*arguments, **named)
        signal_at(current_point, current_step(*arguments))
        return result

    return wrapped


def save_with_signal(content, file):
    if isinstance(content, dict) and content.get("step") == int(step):
        file.write(b"partial content")
        file.flush()
        signal_at("write", content["step"])
        file.seek(0)
    save(content, file)


save = torch.save
torch.save = save_with_signal if point == "write" else save
# The trainer calls is_due after each step.
Progress.is_due = signal_after(Progress.is_due, "twice" if point == "twice" else "step", lambda progress, step: step)
ResumableTrainer.save_best_model = signal_after(
    ResumableTrainer.save_best_model, "evaluation", lambda trainer: trainer.position.step
)
sys.argv = [str(RECIPE), *sys.argv[3:]]
runpy.run_path(str(RECIPE), run_name="__main__")
