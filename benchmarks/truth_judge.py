"""Judge a data set that was made from a long recording whose contents are known.

benchmarks/long_recordings.py uses this; truth_recordings.py makes the recordings.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from truth_recordings import Fate, Span, TextTruth, Utterance

#: An edge this close to a pause or an utterance's border is in it.
_TOLERANCE_S = 0.03
#: Speech of an utterance that may be missing from a clip, or be in it, without its words.
_SLIVER_S = 0.06
#: The share of letters in a part of an utterance may differ from the part's share of its speech by the first number and
#: the second number of letters, but not by more than the third number.
_SHARE_TOLERANCE, _LETTERS_TOLERANCE, _MOST_TOLERANCE = 0.08, 3, 0.25


@dataclass(frozen=True)
class JudgedClip:
    """A clip beside what is known.

    Attributes:
        start_s, end_s: Where it is in the recording.
        text: The text that it was given.
        expected: The utterances that it covers, with "|" before or after those that it cuts.
        is_exact: The text is what is spoken in the clip.
        cut_edges: Number of its edges inside speech: 0, 1 or 2.
    """

    start_s: float
    end_s: float
    text: str
    expected: str
    is_exact: bool
    cut_edges: int


@dataclass
class Verdict:
    """What is right and wrong in a data set.

    Attributes:
        accepted: Accepted clips.
        exact: Accepted clips whose text is exactly what is spoken.
        words: Words in accepted clips.
        split_words: Edges of accepted clips that are inside speech; each splits a word.
        good_s: Seconds of utterances that the text has as they are spoken.
        kept_s: Those of `good_s` that are in accepted clips with the right text.
        accepted_s: Seconds of accepted clips.
        rightly, wrongly: What was set aside, by reason: seconds of audio, or words for text without audio.
        wrong: Accepted clips that are not exact or are cut.
        lost: Clips with the right text that were set aside, by reason.
    """

    accepted: int = 0
    exact: int = 0
    words: int = 0
    split_words: int = 0
    good_s: float = 0.0
    kept_s: float = 0.0
    accepted_s: float = 0.0
    rightly: dict[str, float] = field(default_factory=dict)
    wrongly: dict[str, float] = field(default_factory=dict)
    wrong: list[JudgedClip] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def exact_share(self) -> float:
        """Share of accepted clips whose text is exactly what is spoken."""
        return self.exact / self.accepted if self.accepted else 0.0

    @property
    def split_share(self) -> float:
        """Share of words that are split."""
        return self.split_words / self.words if self.words else 0.0

    @property
    def kept_share(self) -> float:
        """Share of good seconds that are kept."""
        return self.kept_s / self.good_s if self.good_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the verdict for a JSON file, with up to 40 wrong clips."""
        shares = {"exact_share": self.exact_share, "split_share": self.split_share, "kept_share": self.kept_share}
        return asdict(self) | shares | {"lost": dict(self.lost), "wrong": [asdict(clip) for clip in self.wrong[:40]]}


def letters(text: str) -> str:
    """Return what of a text is compared: its letters and marks, ignoring case."""
    text = unicodedata.normalize("NFC", text.casefold())
    return "".join(character for character in text if unicodedata.category(character)[0] in "LM")


def judge_clip(start_s: float, end_s: float, text: str, utterances: Sequence[Utterance]) -> JudgedClip:
    """Compare a clip with the utterances that it covers.

    An utterance that the clip cuts has to contribute a prefix or suffix of its words, in proportion to its speech in
    the clip. Where the cut is says `cut_edges`.
    """
    covered, shown = [], []
    for utterance in utterances:
        spoken = speech_inside(utterance, utterance.start_s, utterance.end_s)
        inside = speech_inside(utterance, start_s, end_s)
        if inside < min(_SLIVER_S, spoken / 2):
            continue
        cut_before = speech_inside(utterance, utterance.start_s, start_s) > _SLIVER_S
        cut_after = speech_inside(utterance, end_s, utterance.end_s) > _SLIVER_S
        covered.append(set(_parts(utterance.text, inside / spoken, cut_before, cut_after)))
        shown.append("|" * cut_before + utterance.text + "|" * cut_after)
    cut_edges = sum(is_cut(edge, utterances) for edge in (start_s, end_s))
    return JudgedClip(
        start_s, end_s, text, " ".join(shown), bool(covered) and _matches(letters(text), covered), cut_edges
    )


def speech_inside(utterance: Utterance, start_s: float, end_s: float) -> float:
    """Return the seconds of an utterance's speech, without its pauses, that are between two times."""

    def overlap(span: Span) -> float:
        return max(0.0, min(end_s, span[1]) - max(start_s, span[0]))

    return overlap((utterance.start_s, utterance.end_s)) - sum(map(overlap, utterance.quiet))


def is_cut(edge_s: float, utterances: Sequence[Utterance]) -> bool:
    """Return whether an edge is inside speech, more than 30 ms from a pause or an utterance's border."""
    for utterance in utterances:
        if utterance.start_s + _TOLERANCE_S < edge_s < utterance.end_s - _TOLERANCE_S:
            return not any(first - _TOLERANCE_S <= edge_s <= last + _TOLERANCE_S for first, last in utterance.quiet)
    return False


def _parts(text: str, spoken_share: float, cut_before: bool, cut_after: bool) -> Iterator[str]:
    """Yield the letters that a clip may have of an utterance: all, or as many as fit the share of its speech."""
    if not cut_before and not cut_after:
        yield letters(text)
        return
    words = [letters(word) for word in text.split()]
    total = sum(map(len, words))
    tolerance = min(_MOST_TOLERANCE, _SHARE_TOLERANCE + _LETTERS_TOLERANCE / total)
    for first in range(len(words) + 1 if cut_before else 1):
        for last in range(first, len(words) + 1) if cut_after else [len(words)]:
            part = "".join(words[first:last])
            if part and abs(len(part) / total - spoken_share) <= tolerance:
                yield part


def _matches(text: str, covered: Sequence[set[str]]) -> bool:
    """Return whether a text is one of the possible letters of each utterance, in order."""
    rests = {text}
    for possible in covered:
        rests = {rest[len(part) :] for rest in rests for part in possible if rest.startswith(part)}
    return "" in rests


def judge(
    rows: Iterable[dict[str, Any]],
    set_aside: Iterable[dict[str, Any]],
    utterances: Sequence[Utterance],
    text: TextTruth,
) -> Verdict:
    """Judge the rows of a `clips.jsonl`, and those of a `rejected.csv` that are no clips.

    Args:
        rows: Clips with "text", "start", "end", "split" and "rejected".
        set_aside: Rows with "start", "end", "text" and "reason"; start and end are None for text without speech.
        utterances: What is spoken.
        text: What is known about the text that the data set was made with.
    """
    verdict = Verdict()
    good = [one for one, fate in zip(utterances, text.fates, strict=True) if fate is Fate.AS_SPOKEN]
    verdict.good_s = sum(one.end_s - one.start_s for one in good)
    for row in rows:
        near = [one for one in utterances if one.end_s > row["start"] - 1 and one.start_s < row["end"] + 1]
        clip = judge_clip(row["start"], row["end"], row["text"], near)
        duration_s = clip.end_s - clip.start_s
        if row["rejected"] is not None:
            if clip.is_exact and not clip.cut_edges:
                verdict.lost[row["rejected"]] += 1
            _add(verdict, row["rejected"], duration_s, rightly=not clip.is_exact or clip.cut_edges > 0)
            continue
        verdict.accepted += 1
        verdict.accepted_s += duration_s
        verdict.words += len(clip.text.split())
        verdict.split_words += clip.cut_edges
        verdict.exact += clip.is_exact
        if not clip.is_exact or clip.cut_edges:
            verdict.wrong.append(clip)
        if clip.is_exact:
            verdict.kept_s += sum(
                max(0.0, min(one.end_s, clip.end_s) - max(one.start_s, clip.start_s)) for one in near if one in good
            )
    finder = _TextFinder(text)
    for row in set_aside:
        if row["start"] is None:
            spoken, unspoken = finder.count(row["text"])
            _add(verdict, row["reason"], float(unspoken), rightly=True)
            _add(verdict, row["reason"], float(spoken), rightly=False)
        else:
            lost_s = sum(speech_inside(one, row["start"], row["end"]) for one in good)
            _add(verdict, row["reason"], lost_s, rightly=False)
            _add(verdict, row["reason"], max(0.0, row["end"] - row["start"] - lost_s), rightly=True)
    return verdict


def _add(verdict: Verdict, reason: str, amount: float, *, rightly: bool) -> None:
    amounts = verdict.rightly if rightly else verdict.wrongly
    if amount > 0:
        amounts[reason] = amounts.get(reason, 0.0) + amount


class _TextFinder:
    """Finds pieces of a text, in the order of the text, and counts which of their words are spoken."""

    def __init__(self, text: TextTruth) -> None:
        words = [(letters(word), part.fate is Fate.AS_SPOKEN) for part in text.parts for word in part.text.split()]
        self._letters = "".join(word for word, _ in words)
        self._spoken = [spoken for word, spoken in words for _ in word]
        self._position = 0

    def count(self, text: str) -> tuple[int, int]:
        """Return the number of words of a piece that are spoken, and that are not; unknown words are spoken."""
        words = text.split()
        wanted = letters(text)
        found = self._letters.find(wanted, self._position)
        if found < 0:
            found = self._letters.find(wanted)
        if found < 0 or not wanted:
            return len(words), 0
        self._position = found + len(wanted)
        spoken = sum(self._spoken[found : found + len(wanted)]) / len(wanted)
        return round(spoken * len(words)), len(words) - round(spoken * len(words))


def read_clips(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a data set's clips.jsonl."""
    return [json.loads(line) for line in (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
