"""The `Sample` class, which represents one utterance from the manifest to the batch."""

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
    """An utterance, consisting of a text and either its recording or the codes of a recording.

    Samples are immutable. Each stage creates new ones with `dataclasses.replace`, and a field keeps its default until
    the stage that sets it has run.

    Attributes:
        text: Text as in the manifest.
        audio_file: Absolute path of the recording, or of the voice that conditions a sample from a replay set.
        language: Language code.
        manifest_audio_file: Name of the recording, exactly as in the manifest.
        speaker_name: Name of the speaker, or `DEFAULT_SPEAKER` if the manifest has none.
        manifest: Absolute path of the file that the sample was read from, for reports.
        line: Line number in that file, starting at 1. None for samples from a coqui formatter or a replay set.
        root_path: Absolute path of the folder that file names are relative to: the manifest's or the formatter's.
        reference_path: A different recording of the same voice, which conditions the sample. Only coqui formatters set
            it.
        conditioning_slice: Start and end of the slice of `audio_file` that conditions the sample, in samples at the
            model's rate. None if a slice is drawn in each epoch.
        encoded: Location of the codes, once the sample is encoded.
        duration_s: Length of the recording in seconds; 0 until it is checked.
        audio_digest: Digest of the recording (see `Recording`). None until it is checked, and for replay sets.
        text_tokens: Number of tokens in the text; None until it is checked.
        replay: Whether the sample is replayed so that the model keeps one of its old languages.
        extra: Other values from the formatter, keyed by name.
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
        """Coqui's id for the recording: MANIFEST#FILE. FILE is relative to the root and has no extension."""
        file = self.audio_file.removeprefix(os.path.join(self.root_path, ""))
        return f"{Path(self.manifest).stem}#{os.path.splitext(file)[0]}"

    def to_coqui(self) -> dict[str, object]:
        """Return the sample as the dictionary that coqui's formatters, datasets and Trainer use."""
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
