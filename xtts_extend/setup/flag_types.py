"""Types for the recipe's flags: functions that argparse calls to convert a flag's value from text."""

from __future__ import annotations

import argparse
import re

from xtts_extend.data.columns import parse_columns
from xtts_extend.errors import ConfigError


def positive_int(text: str) -> int:
    """Return an integer that is at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"Expected an integer of at least 1, got {text}.")
    return value


def count(text: str) -> int:
    """Return an integer that is at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"Expected an integer of at least 0, got {text}.")
    return value


def frames(text: str) -> int:
    """Return the maximum number of frames per batch, or 0 for `auto`."""
    return 0 if text == "auto" else positive_int(text)


def at_least_zero(text: str) -> float:
    """Return a finite number that is at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"Expected a finite number of at least 0, got {text}.")
    return value


def share(text: str) -> float:
    """Return a number that is at least 0 and less than 1."""
    value = at_least_zero(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"Expected a number that is at least 0 and less than 1, got {text}.")
    return value


def language_weights(text: str) -> dict[str, float]:
    """Parse `am=3,en=1` into {"am": 3.0, "en": 1.0}."""
    weights = {}
    for part in text.split(","):
        language, _, value = part.partition("=")
        try:
            weights[language.strip()] = float(value)
        except ValueError:
            message = f"Expected LANG=WEIGHT,LANG=WEIGHT with numeric weights, got {text!r}."
            raise argparse.ArgumentTypeError(message) from None
    return weights


def columns(text: str) -> dict[str, str]:
    """Parse `text=sentence,audio=2` into {"text": "sentence", "audio": "2"}."""
    try:
        return parse_columns(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def test_sentence(text: str) -> dict[str, str]:
    """Parse `LANG:VOICE.wav:TEXT` into a test sentence in coqui's format. A Windows path may have a drive letter."""
    found = re.fullmatch(r"([^:]+):((?:[A-Za-z]:[\\/])?[^:]+):(.+)", text, re.DOTALL)
    if found is None:
        raise argparse.ArgumentTypeError(f"Expected LANG:VOICE.wav:TEXT, got {text!r}.")
    return {"text": found[3], "speaker_wav": found[2], "language": found[1]}
