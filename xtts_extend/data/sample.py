"""One utterance on its way from a manifest to a batch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xtts_extend.data.encoded import Encoded

DEFAULT_SPEAKER = "speaker"


@dataclass(frozen=True, slots=True)
class Sample:
    """An utterance: a recording and its text, or codes and theirs.

    A stage does not change a sample, it makes another with `dataclasses.replace`. What a stage fills in has its default
    until then.

    Attributes:
        text: what is said, as the manifest has it.
        audio_file: absolute path of the recording; of an utterance to replay, of the voice that conditions it.
        language: its code.
        manifest_audio_file: the recording's value in the manifest, exactly as it is there.
        speaker_name: `DEFAULT_SPEAKER` where the manifest names none.
        manifest: absolute path of the file that the sample came from, for reports.
        line: its line there, from 1; None where a formatter of coqui, or a set of codes, gave it.
        root_path: absolute path of the folder that names are seen from: the manifest's, or a formatter's.
        reference_path: another recording of the voice, which conditions the sample; a formatter may give one.
        conditioning_slice: first sample and the one after the last, at the model's rate, of the slice of `audio_file`
            that conditions the sample; None where one is drawn in each epoch.
        encoded: where its codes are, once it is encoded.
        duration_s: length of the recording in seconds; 0 before it is checked.
        audio_digest: of the recording's file, see `Recording`; None before it is checked, and of what comes from a set.
        text_tokens: number of token ids of the text; None before it is checked.
        replay: it is in a language that the base knows, and there to keep it.
        extra: what else a formatter gave, by name.
    """

    text: str
    audio_file: str
    language: str
    manifest_audio_file: str
    speaker_name: str = DEFAULT_SPEAKER
    manifest: str = ""
    line: int | None = None
    root_path: str = ""
    reference_path: str | None = None
    conditioning_slice: tuple[int, int] | None = None
    encoded: Encoded | None = None
    duration_s: float = 0.0
    audio_digest: str | None = None
    text_tokens: int | None = None
    replay: bool = False
    extra: Mapping[str, object] | None = None

    @property
    def audio_unique_name(self) -> str:
        """Coqui's name of the recording: the manifest's name, and the file from the root, without its suffix."""
        file = self.audio_file.removeprefix(os.path.join(self.root_path, ""))
        return f"{Path(self.manifest).stem}#{os.path.splitext(file)[0]}"

    def to_coqui(self) -> dict[str, object]:
        """The sample as the dictionary that coqui's formatters make, and its data sets and Trainer take."""
        reference = {} if self.reference_path is None else {"reference_path": self.reference_path}
        return {
            **(self.extra or {}),
            "text": self.text,
            "audio_file": self.audio_file,
            "speaker_name": self.speaker_name,
            "root_path": self.root_path,
            "language": self.language,
            "audio_unique_name": self.audio_unique_name,
            **reference,
        }
