"""The training loop: the resumable trainer, its optimizer steps, evaluations and checkpoints."""
