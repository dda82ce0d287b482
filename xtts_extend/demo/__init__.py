"""The demo, along with the espeak-ng speech and the mini base model that it needs."""
