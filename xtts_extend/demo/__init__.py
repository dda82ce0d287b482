"""The demo and what it needs: espeak-ng speech and a mini base model."""
