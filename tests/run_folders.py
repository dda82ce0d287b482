"""What lies in run folders, written by hand: small checkpoint files and histories."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from xtts_extend.run.position import Position


def write_checkpoint(file: Path, step: int, **changes: object) -> Path:
    """Write a training checkpoint of ours with hardly any tensors; keys that are None are left out."""
    content = {
        "config": {"language": "am", "grad_accum_steps": 1},
        "model": {"xtts.gpt.text_embedding.weight": torch.zeros(3, 2), "xtts.gpt.gpt.h.0.ln_1.weight": torch.zeros(2)},
        "optimizer": [{"state": {0: {"step": step, "exp_avg": torch.zeros(2)}}, "param_groups": [{}]}],
        "scheduler": [],
        "scaler": None,
        "step": step,
        "epoch": 1,
        "xtts_extend": {
            "version": 3,
            "base_rows": {"rows": 2, "frozen": True, "digests": {}},
            "state": Position(step=step, epoch=1).state_dict(),
        },
        **changes,
    }
    torch.save({key: value for key, value in content.items() if value is not None}, file)
    return file


def append_history(folder: Path, *events: tuple[str, int]) -> None:
    """Write a run's history."""
    lines = [json.dumps({"event": event, "time": "2026-11-28T10:00:00+00:00", "step": step}) for event, step in events]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
