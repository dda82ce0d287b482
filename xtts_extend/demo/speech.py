"""Synthesize speech with espeak-ng, whose library and voices come from the package `espeakng-loader`.

espeak-ng keeps state in C globals that are not reset even when it is reinitialized, so its output depends slightly on
earlier utterances. Here, the library is loaded (which takes 3 ms) and unloaded for every utterance, so that the output
depends only on the arguments. A lock lets only one thread use the library at a time.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import soundfile

from xtts_extend.errors import ConfigError, DataError, LanguageError, MachineError
from xtts_extend.files import atomic_write
from xtts_extend.progress import with_progress

#: Sample rate of all espeak-ng voices, in Hz.
SAMPLE_RATE = 22050

# From speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_TEXT_IS_UTF8 = 1
_BY_CHARACTER = 1
_RATE, _PITCH = 1, 3
# The library truncates its data path to 160 bytes.
_MAX_DATA_PATH_BYTES = 120

_library_lock = threading.Lock()


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("details", ctypes.c_ubyte * 4),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Speaker:
    """A voice in a corpus: an espeak-ng variant, a pitch (0 to 99) and a speed in words per minute."""

    name: str
    variant: str
    pitch: int
    speed_wpm: int


#: The voices in a corpus. All are clear, because breathy voices need many more audio codes.
SPEAKERS = (
    Speaker("anna", "f4", 55, 165),
    Speaker("bruno", "m3", 45, 175),
    Speaker("clara", "f1", 60, 155),
    Speaker("david", "m7", 35, 160),
)


def espeak_languages() -> dict[str, str]:
    """Return the English names of all espeak-ng languages, keyed by language code.

    Raises:
        MachineError: espeak-ng is not installed.
    """
    with _library() as library:
        library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        voices = library.espeak_ListVoices(None)
        languages = {}
        index = 0
        while voices[index]:
            voice = voices[index].contents
            # A priority byte precedes the code.
            languages[voice.languages[1:].decode()] = voice.name.decode().strip()
            index += 1
    return languages


def speak_to_array(
    text: str, language: str, *, voice_variant: str = "m3", speed_wpm: int = 165, pitch: int = 50
) -> npt.NDArray[np.float32]:
    """Return speech synthesized by espeak-ng. The same arguments always give the same samples.

    Args:
        text: Text with at least one letter or digit.
        language: espeak-ng's code for the language.
        voice_variant: Name of a variant in espeak-ng's folder `voices/!v`.
        speed_wpm: Speed in words per minute, from 80 to 450.
        pitch: Pitch, from 0 to 99.

    Returns:
        float32 [samples] in [-1, 1] at 22,050 Hz.

    Raises:
        LanguageError: espeak-ng does not support the language. The message names similar codes.
        ConfigError: espeak-ng does not have the voice variant, or a number is out of range.
        DataError: The text contains nothing to say.
        MachineError: espeak-ng is not installed or does not start.
    """
    if not any(letter.isalnum() for letter in text):
        raise DataError(f"{text!r} contains no letters or digits to speak. Pass a text that contains words.")
    if not 80 <= speed_wpm <= 450 or not 0 <= pitch <= 99:
        raise ConfigError(f"Expected a speed_wpm of 80 to 450 and a pitch of 0 to 99, got {speed_wpm} and {pitch}.")
    variants = sorted(os.listdir(_data_folder() / "voices" / "!v"))
    if voice_variant not in variants:
        raise ConfigError(f"espeak-ng has no voice variant {voice_variant!r}. Use one of: {', '.join(variants)}.")
    pieces: list[bytes] = []

    def keep(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _SynthCallback(keep)
    with _library() as library:
        has_voice = library.espeak_SetVoiceByName(f"{language}+{voice_variant}".encode()) == 0
        if has_voice:
            library.espeak_SetSynthCallback(callback)
            library.espeak_SetParameter(_RATE, speed_wpm, 0)
            library.espeak_SetParameter(_PITCH, pitch, 0)
            utf8 = text.replace("\0", " ").encode()
            status = library.espeak_Synth(
                utf8, ctypes.c_size_t(len(utf8) + 1), 0, _BY_CHARACTER, 0, _TEXT_IS_UTF8, None, None
            )
    if not has_voice:
        raise LanguageError(_unknown_language(language))
    if status != 0 or not pieces:
        raise MachineError(f"espeak-ng could not speak {text!r} in {language!r} (status {status}).")
    return np.frombuffer(b"".join(pieces), np.int16).astype(np.float32) / np.float32(32768)


def make_corpus(
    texts: Sequence[str],
    language: str,
    folder: Path,
    *,
    progress: bool = True,
) -> Path:
    """Synthesize texts with each of the `SPEAKERS` in turn, and write the recordings and a manifest in coqui's format.

    The manifest (`audio_file|text|speaker_name`) is written last, after all recordings in `wavs/`.

    Args:
        texts: Texts to synthesize.
        language: espeak-ng's code for the language.
        folder: Folder to write to. It is created if it does not exist.
        progress: Show a progress bar on stderr.

    Returns:
        Path of the manifest, which is `metadata.csv` in the folder.

    Raises:
        LanguageError: espeak-ng does not support the language.
        DataError: There are no texts, or one of them contains nothing to say.
        MachineError: espeak-ng is not installed or does not start, or a file cannot be written.
    """
    if not texts:
        raise DataError("There are no texts to speak. Pass at least one.")
    folder = Path(folder)
    (folder / "wavs").mkdir(parents=True, exist_ok=True)
    lines = ["audio_file|text|speaker_name"]
    for index, text in enumerate(with_progress(texts, len(texts), f"sentences spoken in {language}", progress)):
        # The manifest separates fields with `|` and rows with line breaks.
        text = " ".join(text.replace("|", " ").split())
        speaker = SPEAKERS[index % len(SPEAKERS)]
        speech = speak_to_array(
            text, language, voice_variant=speaker.variant, speed_wpm=speaker.speed_wpm, pitch=speaker.pitch
        )
        name = f"wavs/{language}_{index:05d}.wav"
        try:
            soundfile.write(folder / name, speech, SAMPLE_RATE, subtype="PCM_16")
        except (OSError, soundfile.SoundFileError) as error:
            raise MachineError(
                f"{folder / name} could not be written: {error}. Free up disk space, or choose a different folder."
            ) from error
        lines.append(f"{name}|{text}|{speaker.name}")
    manifest = folder / "metadata.csv"
    with atomic_write(manifest) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    return manifest


@contextmanager
def _library() -> Iterator[ctypes.CDLL]:
    """Yield the library in its initial state. Only one thread can use it at a time."""
    loader = _loader()
    with _library_lock, tempfile.TemporaryDirectory(prefix="espeak-") as scratch:
        data = _data_folder()
        if len(os.fsencode(data)) > _MAX_DATA_PATH_BYTES:
            short = Path(scratch) / data.name
            short.symlink_to(data, target_is_directory=True)
            data = short
        try:
            library = ctypes.CDLL(loader.get_library_path())
        except OSError as error:
            raise MachineError(f"The espeak-ng library cannot be loaded: {error}.{_INSTALL}") from error
        try:
            rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data), _DO_NOT_EXIT)
            if rate != SAMPLE_RATE:
                raise MachineError(
                    f"Expected espeak-ng to start with a sample rate of {SAMPLE_RATE} Hz, got {rate} Hz. Its data "
                    f"folder is {data}.{_INSTALL}"
                )
            # Some voices contain noise, which is seeded from the clock by default.
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            yield library
            library.espeak_Terminate()
        finally:
            unload = ctypes.CDLL(None).dlclose
            unload.argtypes = [ctypes.c_void_p]
            unload(library._handle)


_INSTALL = " Install it with: pip install 'xtts_extend[demo]'"


def _data_folder() -> Path:
    return Path(_loader().get_data_path())


def _loader() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise MachineError(f"The package espeakng-loader, which includes espeak-ng, is missing.{_INSTALL}") from error
    return espeakng_loader


def _unknown_language(language: str) -> str:
    known = espeak_languages()
    codes = {name.lower(): code for code, name in known.items()}
    similar = [code for code in known if code.split("-")[0] == language.split("-")[0]]
    similar += difflib.get_close_matches(language, known, n=4, cutoff=0.4)
    similar += [codes[name] for name in difflib.get_close_matches(language.lower(), codes, n=2)]
    listed = ", ".join(f"{code} ({known[code]})" for code in dict.fromkeys(similar)) or ", ".join(known)
    return (
        f"espeak-ng has no voice for the language {language!r}. Supported languages: {len(known)}. Similar codes: "
        f"{listed}."
    )
