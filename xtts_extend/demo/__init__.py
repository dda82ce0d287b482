"""The embedded default: espeak-ng speech, a mini base model, and the whole job on them."""
