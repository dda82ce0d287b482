"""Batches of replayed speech: what several processes speak, each batch in a file, until one process collects them."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from xtts_extend.data.encoded import TOP_K, Utterance, add_part, write_index, write_part, write_rows
from xtts_extend.errors import DataError

#: Number of utterances per batch. All have the same number of tokens, because coqui's generation cannot use padding.
BATCH = 8
#: Number of batches in a language after which an error is raised if none of their utterances is usable.
_BATCHES_TO_JUDGE = 20
#: Folder of the batches in the folder of a set.
BATCHES = ".batches"
#: The reasons for which utterances are skipped.
SKIPPED = ("runaway", "empty", "too_long")
_NAME = re.compile(r"(.+)\.(\d+)\.(\d+)\.(\d+)\.(\d+)\.(\d+)\.arrow")


@dataclass(frozen=True)
class Batch:
    """The result of speaking a batch of texts.

    Attributes:
        language: Code of their language.
        utterances: The usable utterances.
        skipped: Reason → number of skipped utterances.
    """

    language: str
    utterances: list[Utterance]
    skipped: Mapping[str, int]

    @property
    def codes(self) -> int:
        """Number of codes in the usable utterances."""
        return sum(len(utterance.codes) for utterance in self.utterances)


@dataclass(frozen=True)
class StoredBatch:
    """A batch in a file. Its name tells how much was spoken, so that other processes need not read it.

    Attributes:
        language: Code of the language.
        number: Number of the batch, starting at 0 in each language.
        codes: Number of codes in the usable utterances.
        skipped: Reason → number of skipped utterances.
        path: The file.
    """

    language: str
    number: int
    codes: int
    skipped: Mapping[str, int]
    path: Path

    def read(self) -> Batch:
        """Read the utterances."""
        rows = pa.ipc.open_file(self.path.read_bytes()).read_all().to_pylist()
        utterances = [
            Utterance(
                row["text"],
                row["language"],
                row["voice"],
                torch.tensor(row["codes"]),
                (row["start"], row["end"]),
                (
                    torch.tensor(row["top_ids"]).view(-1, TOP_K),
                    torch.tensor(row["top_log_probs"], dtype=torch.float32).view(-1, TOP_K),
                ),
            )
            for row in rows
        ]
        return Batch(self.language, utterances, self.skipped)


def store_batch(output: Path, batch: Batch, number: int) -> None:
    """Write batch `number` of its language to the folder of a set. It appears completely or not at all.

    Raises:
        MachineError: The disk is full, or the folder is not writable.
    """
    counts = [number, batch.codes, *(batch.skipped[reason] for reason in SKIPPED)]
    write_rows(output / BATCHES / f"{batch.language}.{'.'.join(map(str, counts))}.arrow", batch.utterances)


def stored_batches(output: Path) -> dict[tuple[str, int], StoredBatch]:
    """Return the batches in the folder of a set that are in files of their own, by language and number."""
    folder, found = output / BATCHES, {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            number, codes, *skipped = map(int, match.groups()[1:])
            batch = StoredBatch(match[1], number, codes, dict(zip(SKIPPED, skipped, strict=True)), path)
            found[batch.language, number] = batch
    return found


def write_batches(output: Path, index: Mapping[str, Any], batches: Sequence[Batch]) -> dict[str, Any]:
    """Write batches as a part of a set, and list the part in the journal. Doing this again produces the same set.

    Args:
        output: Folder of the set.
        index: Index of the set, with the totals that include these batches, but without their part.
        batches: The batches.

    Returns:
        The index with the part.

    Raises:
        MachineError: The disk is full, or the folder is not writable.
    """
    utterances = [utterance for batch in batches for utterance in batch.utterances]
    if not utterances:
        # Without a part, there is nothing to list in the journal.
        write_index(output, dict(index))
        return dict(index)
    part = write_part(output, len(index["parts"]), utterances)
    add_part(output, 0, part, {key: index[key] for key in ("batches", "seconds", *SKIPPED)})
    return {**index, "parts": [*index["parts"], part]}


def batch_of_texts(
    lines: Sequence[tuple[str, list[int]]], language: str, number: int, seed: int
) -> list[tuple[str, list[int]]]:
    """Return batch `number` from endless passes over the lines. All texts in a batch have the same number of tokens."""
    by_length: dict[int, list[tuple[str, list[int]]]] = {}
    for line in lines:
        by_length.setdefault(len(line[1]), []).append(line)
    batches_per_pass = sum(-(-len(group) // BATCH) for group in by_length.values())
    pass_number, index = divmod(number, batches_per_pass)
    generator = random.Random(f"texts {seed} {language} {pass_number}")
    batches = []
    for length in sorted(by_length):
        group = generator.sample(by_length[length], len(by_length[length]))
        batches += [group[start : start + BATCH] for start in range(0, len(group), BATCH)]
    return generator.sample(batches, len(batches))[index]


def voice_name(number: int) -> str:
    """Return the name of a voice's recording in the folder of a set."""
    return f"voice-{number:03d}.wav"


def require_speech(language: str, tried: int, spoken: float) -> None:
    """Raise an error if many batches of a language have no usable utterance.

    Args:
        language: Code of the language.
        tried: Number of batches.
        spoken: Their length in any unit.

    Raises:
        DataError: Nothing is usable.
    """
    if tried >= _BATCHES_TO_JUDGE and not spoken:
        raise DataError(
            f"None of the speech in the first {tried} batches in {language} is usable, because it does not end or is "
            f"empty. Check with `xtts-extend speak` that the base speaks {language} with these voices."
        )
