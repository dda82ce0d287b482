"""Determine the role of each column in a table from its name, the layout (if there is no header) or `--columns`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from xtts_extend.data.locales import looks_like_language
from xtts_extend.data.paths import AUDIO_SUFFIXES
from xtts_extend.data.unspoken import is_phonemic, phonetic_signs
from xtts_extend.errors import ConfigError, DataError

#: Known column names by role, in order of preference. Case, spaces and punctuation are ignored.
NAMES = {
    "audio": """audio_file audio_filepath audio_file_path audio_path audio_filename audio_file_name file_name file_path
        wav_file wav_filename wav_file_name wav_filepath wav_path wav wave sound_file sound recording audio path file
        clip clip_path clip_name audio_id file_id utterance_id utt_id id""",
    "text": """normalized_text text_normalized normalised_text text_normalised normalized_transcription
        normalized_transcript transcription_normalized transcript_normalized normalized_sentence normalized normalised
        text sentence transcription transcript utterance caption content target_text txt script raw_text text_raw
        original_text text_original raw_transcription raw_transcript""",
    "speaker": """speaker_name speaker speaker_id spk spk_id spk_name client_id voice voice_name voice_id reader
        reader_id narrator""",
    "language": """language lang locale language_code lang_code language_id lang_id language_name lang_name iso_code
        iso639 iso_639_1 iso_639_3 iso""",
}
_SUFFIXED = re.compile(rf"(?i)(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))})\s*$")
_SENTENCE_END = (".", "!", "?", "…", ",", ";", ":", "。", "！", "？", "።", "؟", "।")


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


#: The role and the rank of each known name.
_ROLES = {_key(name): (role, rank) for role in NAMES for rank, name in enumerate(NAMES[role].split())}


def parse_columns(text: str) -> dict[str, str]:
    """Parse the value of `--columns`.

    Args:
        text: ROLE=COLUMN pairs, separated by commas. COLUMN is a name in the header or a number, starting at 1. An
            empty COLUMN means that the table has no column for this role.

    Returns:
        Mapping from role to column.

    Raises:
        ConfigError: A pair is malformed, a role or column is used twice, or audio or text has no column.

    >>> parse_columns("text=sentence,audio=2,speaker=")
    {'text': 'sentence', 'audio': '2', 'speaker': ''}
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, separator, column = (piece.strip() for piece in part.partition("="))
        if not separator or role not in NAMES or role in columns:
            raise ConfigError(
                f"{part!r} is not a valid ROLE=COLUMN pair. In --columns, each of the roles audio, text, speaker and "
                "language can be used at most once: for example, text=sentence,audio=file, or text=3,audio=1 for a "
                "table without a header."
            )
        columns[role] = column
    if len({*columns.values()} - {""}) < len([column for column in columns.values() if column]):
        raise ConfigError(
            f"--columns {text!r} assigns two roles to the same column. Assign only one role to each column."
        )
    if "" in (columns.get("audio"), columns.get("text")):
        raise ConfigError(
            f"--columns {text!r} specifies no column for audio or text. Only speaker= and language= may be empty."
        )
    return columns


def is_known_name(name: str) -> bool:
    """Return whether a name is one of the known column names."""
    return _key(name) in _ROLES


def known_roles(cells: Sequence[str]) -> set[str]:
    """Return the roles of the cells that are known column names."""
    return {_ROLES[_key(cell)][0] for cell in cells if _key(cell) in _ROLES}


def same_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two headers are equal, ignoring case, spaces and punctuation."""
    return [_key(name) for name in first] == [_key(name) for name in second]


def has_suffix(name: str) -> bool:
    """Return whether a cell ends with the file extension of an audio format."""
    return _SUFFIXED.search(name) is not None


def is_header(cells: Sequence[str], columns: Mapping[str, str]) -> bool:
    """Return whether the cells of a line are column names.

    Args:
        cells: Cells of the line.
        columns: Mapping from role to column, as returned by `parse_columns`. If the cells contain these names, they are
            a header.
    """
    wanted = {_key(name) for name in columns.values() if name and not name.isdecimal()}
    keys = {_key(cell) for cell in cells}
    if wanted and wanted <= keys:
        return True
    if any(has_suffix(cell) for cell in cells):
        return False
    roles = known_roles(cells)
    if len(roles) > 1 or len(cells) < 2:
        return len(cells) > 1
    # A text can happen to be a known column name. In a header, all other cells consist of letters as well.
    return "audio" in roles or (bool(roles) and all(re.fullmatch(r"[^\W\d]*", key) for key in keys))


def named_columns(where: str, header: Sequence[str], columns: Mapping[str, str]) -> dict[str, list[int]]:
    """Return the columns that could fill each role, judging by their names, in order of preference.

    Args:
        where: File name, with or without a line number, for messages.
        header: Names of the columns.
        columns: Mapping from role to column, as returned by `parse_columns`. It overrides the known names.

    Returns:
        Mapping from role to a list of column numbers, starting at 0. The list is empty for a role without a column.

    Raises:
        DataError: A column in `columns` is missing from the header, or a name occurs twice.
    """
    keys = [_key(name) for name in header]
    ranked = {role: sorted(_ranked(keys, role)) for role in NAMES}
    chosen = {role: [index for _, index in pairs] for role, pairs in ranked.items()}
    for role, name in columns.items():
        exact = [index for index, key in enumerate(keys) if key == _key(name)]
        if not exact and name.isdecimal() and 1 <= int(name) <= len(keys):
            exact = [int(name) - 1]
        if name and len(exact) != 1:
            raise DataError(
                f"{where}: --columns specifies {name!r} for {role}, but the header has the columns "
                f"{', '.join(header)}. Expected a name that occurs exactly once."
            )
        chosen[role] = exact
        chosen |= {
            other: [index for index in indices if index not in exact]
            for other, indices in chosen.items()
            if other not in columns
        }
    for role in NAMES:
        if len({keys[index] for index in chosen[role]}) != len(chosen[role]):
            raise DataError(f"{where}: The header has the columns {', '.join(header)}. Each name must occur only once.")
    return chosen


def _ranked(keys: Sequence[str], role: str) -> list[tuple[int, int]]:
    """Return the rank and the index of each key that is a known name for a role."""
    known = ((_ROLES.get(key), index) for index, key in enumerate(keys))
    return [(match[1], index) for match, index in known if match is not None and match[0] == role]


def placed_columns(
    where: str, cells: pd.DataFrame, columns: Mapping[str, str], language: str | None, audio: int | None
) -> dict[str, int]:
    """Map roles to column numbers, starting at 0, for a table without a header, based on common tools' layouts.

    Args:
        where: Path of the table, for messages.
        cells: Cells of the table.
        columns: Mapping from role to column number, starting at 1, as returned by `parse_columns`.
        language: Code of the manifest's language, if known. It helps to recognize the language column.
        audio: Number of the audio column, starting at 0, or None if no column was recognized by the file names in it.

    Raises:
        DataError: The layout is unknown or ambiguous.
    """
    width = cells.shape[1]
    chosen: dict[str, int] = {}
    for role, name in columns.items():
        if name and not (name.isdecimal() and 1 <= int(name) <= width):
            raise DataError(
                f"--columns specifies {name!r} for {role}, but {where} has no header. Expected a column number from 1 "
                f"to {width}."
            )
        if name:
            chosen[role] = int(name) - 1
    if "audio" not in chosen:
        if audio is None:
            raise DataError(f"{where} has an unknown format: {_column_hints(cells)}")
        chosen["audio"] = audio
    suffixed = cells[chosen["audio"]].head(1000).map(has_suffix)
    if len(suffixed) > 1 and not suffixed.iloc[0] and suffixed.iloc[1:].all():
        raise DataError(
            f"{where}: The first line looks like a header with unknown column names ({', '.join(cells.iloc[0])}). "
            "Specify the columns, for example with --columns audio=file,text=sentence."
        )
    rest = [index for index in range(width) if index not in chosen.values()]
    if "language" not in columns and "text" not in chosen and len(rest) > 1:
        candidates = [index for index in rest if looks_like_language(cells[index], language, any_code=len(rest) > 2)]
        if len(candidates) == 1:
            chosen["language"] = candidates[0]
            rest.remove(candidates[0])
    if "text" in chosen:
        return chosen
    if len(rest) == 1:
        return chosen | {"text": rest[0]}
    middle = chosen.get("language", -1)
    if len(rest) > 2 and {middle - 1, middle + 1} <= set(rest):
        # Bert-VITS2 uses GPT-SoVITS's columns and appends phonemes.
        return chosen | {"speaker": middle - 1, "text": middle + 1}
    if len(rest) != 2:
        raise DataError(f"{where} has an unknown format: {_column_hints(cells)}")
    before, last = rest
    if _looks_like_phonemes(cells[last], cells[before]):
        raise DataError(
            f"{where} has no header, and column {last + 1} ({cells[last].iloc[0][:40]!r}) looks like phonemes. XTTS "
            f"reads text, not phonemes. Add --columns text={before + 1}, or --columns text={last + 1} if that column "
            "contains the text."
        )
    if "speaker" in columns or _same_words(cells[before], cells[last]):
        return chosen | {"text": last}
    if _looks_like_speakers(cells[last], cells[before]):
        names = cells[chosen["audio"]]
        if not (names.map(has_suffix).all() or cells[last].str.strip().str.isdecimal().all()):
            examples = ", ".join(sorted({name.strip() for name in cells[last]})[:3])
            raise DataError(
                f"{where} has no header, and column {last + 1} ({examples}) looks like speaker names, but in LJSpeech "
                f"it is the normalized text. Add --columns text={before + 1},speaker={last + 1} if the column "
                f"contains speaker names, or --columns text={last + 1} if it contains the text."
            )
        return chosen | {"text": before, "speaker": last}
    if "language" in chosen or _looks_like_speakers(cells[before], cells[last]):
        return chosen | {"text": last, "speaker": before}
    return chosen | {"text": last}


def _column_hints(cells: pd.DataFrame) -> str:
    first = ", ".join(repr(cell[:40]) for cell in cells.iloc[0])
    return (
        f"its first line has the columns {first}. Expected a header such as audio_file|text|speaker_name, lines of "
        "the form id|text (with the recordings in a folder named wavs next to the file), or JSON lines. Otherwise, "
        "specify the columns, for example with --columns audio=1,text=2, or specify a coqui formatter with "
        "--manifest-format."
    )


def _same_words(first: pd.Series[str], second: pd.Series[str]) -> bool:
    """Return whether most of the texts in two columns are equal, ignoring case and punctuation."""
    keys = [column.head(1000).map(_key) for column in (first, second)]
    return bool((keys[0] == keys[1]).mean() > 0.5)


def _looks_like_phonemes(column: pd.Series[str], other: pd.Series[str]) -> bool:
    """Return whether most cells of a column contain phonetic symbols that never occur in the other column."""
    cells, ordinary = column.head(1000), phonetic_signs("".join(other.head(1000)))
    return is_phonemic("".join(cells)) and bool(
        cells.map(lambda cell: bool(phonetic_signs(cell) - ordinary)).mean() > 0.5
    )


def _looks_like_speakers(column: pd.Series[str], other: pd.Series[str]) -> bool:
    """Return whether a column contains names rather than texts: short, repeated, and without final punctuation."""
    names, texts = column.str.strip(), other.str.strip()
    # Some rows may have no speaker.
    names = names[names != ""]
    words = names.str.count(r"\s+") + 1
    if names.empty or words.max() > 3 or names.str.endswith(_SENTENCE_END).any():
        return False
    repeats = names.nunique() * 2 <= len(names) and names.nunique() < texts.nunique()
    longer = words.max() == 1 and texts.str.len().mean() >= 2 * names.str.len().mean()
    # A normalized text shares words with the original text, but a speaker's name does not.
    shared = [
        bool(set(name.casefold().split()) & set(text.casefold().split()))
        for name, text in zip(names.head(1000), texts[names.index].head(1000), strict=True)
    ]
    unrelated = " " in "".join(texts.head(1000)) and sum(shared) * 2 < len(shared)
    return bool(repeats or longer or unrelated)
