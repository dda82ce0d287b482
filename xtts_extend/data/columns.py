"""Which column of a table is what: by its name, by the layout of a table without a header, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from xtts_extend.data.locales import looks_like_language
from xtts_extend.data.paths import AUDIO_SUFFIXES
from xtts_extend.data.unspoken import is_phonemic, phonetic_signs
from xtts_extend.errors import ConfigError, DataError

#: Names that people give to their columns, the preferred one first. Case, spaces and punctuation do not matter.
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


_ROLES = {_key(name): (role, rank) for role in NAMES for rank, name in enumerate(NAMES[role].split())}


def parse_columns(text: str) -> dict[str, str]:
    """`text=sentence,audio=2` → {"text": "sentence", "audio": "2"}.

    Raises:
        ConfigError: a part is not ROLE=COLUMN, or there is no such role.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, separator, column = (piece.strip() for piece in part.partition("="))
        if not separator or role not in NAMES or role in columns:
            raise ConfigError(
                f"{part!r} is not ROLE=COLUMN. --columns takes audio, text, speaker and language, each at most once, "
                "for example text=sentence,audio=file, or text=3,audio=1 for a table without a header."
            )
        columns[role] = column
    if len({*columns.values()} - {""}) < len([column for column in columns.values() if column]):
        raise ConfigError(f"--columns {text!r} gives one column two roles. Each column is one of them.")
    if "" in (columns.get("audio"), columns.get("text")):
        raise ConfigError(f"{text!r} names no column. In --columns, only speaker= and language= may be empty.")
    return columns


def is_known_name(name: str) -> bool:
    """Whether people call a column of a manifest so."""
    return _key(name) in _ROLES


def known_roles(cells: Sequence[str]) -> set[str]:
    """The roles that people give to columns of these names."""
    return {_ROLES[_key(cell)][0] for cell in cells if _key(cell) in _ROLES}


def same_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two headers differ in case, spaces and punctuation at most."""
    return [_key(name) for name in first] == [_key(name) for name in second]


def has_suffix(name: str) -> bool:
    """Whether a cell ends as the name of a recording does."""
    return _SUFFIXED.search(name) is not None


def is_header(cells: Sequence[str], columns: Mapping[str, str]) -> bool:
    """Whether a line's cells name columns, as the user says or as people do."""
    wanted = {_key(name) for name in columns.values() if name and not name.isdecimal()}
    keys = {_key(cell) for cell in cells}
    if wanted and wanted <= keys:
        return True
    if any(has_suffix(cell) for cell in cells):
        return False
    roles = known_roles(cells)
    if len(roles) > 1 or len(cells) < 2:
        return len(cells) > 1
    # a text may be one of these words by chance; beside one that is none, other names are made of letters
    return "audio" in roles or (bool(roles) and all(re.fullmatch(r"[^\W\d]*", key) for key in keys))


def named_columns(where: str, header: Sequence[str], columns: Mapping[str, str]) -> dict[str, list[int]]:
    """For each role the columns that have it by their name, the preferred one first; none for a missing role.

    Raises:
        DataError: a column that the user names does not exist, or is there twice.
    """
    keys = [_key(name) for name in header]
    found = {role: sorted(_ranked(keys, role)) for role in NAMES}
    chosen = {role: [place for _, place in ranked] for role, ranked in found.items()}
    for role, name in columns.items():
        exact = [place for place, key in enumerate(keys) if key == _key(name)]
        if not exact and name.isdecimal() and 1 <= int(name) <= len(keys):
            exact = [int(name) - 1]
        if name and len(exact) != 1:
            raise DataError(
                f"{where}: --columns names {name!r} for {role}, and the header has the columns {', '.join(header)}; "
                "expected one of these, each once."
            )
        chosen[role] = exact
        chosen |= {
            other: [place for place in places if place not in exact]
            for other, places in chosen.items()
            if other not in columns
        }
    for role in NAMES:
        if len({keys[place] for place in chosen[role]}) != len(chosen[role]):
            raise DataError(f"{where}: the header has the columns {', '.join(header)}; expected each once.")
    return chosen


def _ranked(keys: Sequence[str], role: str) -> list[tuple[int, int]]:
    known = ((_ROLES.get(key), place) for place, key in enumerate(keys))
    return [(found[1], place) for found, place in known if found is not None and found[0] == role]


def placed_columns(
    where: str, cells: pd.DataFrame, columns: Mapping[str, str], language: str | None, audio: int | None
) -> dict[str, int]:
    """Role → column of a table without a header, by the layouts that other tools write.

    Args:
        where: the table's path, for messages.
        cells: of the table.
        columns: what the user says; numbers from 1.
        language: of the manifest; a column that says it again is one of languages.
        audio: the column of recordings, if their names gave it away.

    Raises:
        DataError: the layout is none that we know, or it could be two of them.
    """
    width = cells.shape[1]
    chosen: dict[str, int] = {}
    for role, name in columns.items():
        if name and not (name.isdecimal() and 1 <= int(name) <= width):
            raise DataError(
                f"{where} has no header with a column {name!r}, which --columns names for {role}. Expected a number "
                f"from 1 to {width}."
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
            f"{where}: the first line looks like a header, and its names are unknown ({', '.join(cells.iloc[0])}). Say "
            "which column is what, for example --columns audio=file,text=sentence."
        )
    rest = [place for place in range(width) if place not in chosen.values()]
    if "language" not in columns and "text" not in chosen and len(rest) > 1:
        spoken = [place for place in rest if looks_like_language(cells[place], language, any_code=len(rest) > 2)]
        if len(spoken) == 1:
            chosen["language"] = spoken[0]
            rest.remove(spoken[0])
    if "text" in chosen:
        return chosen
    if len(rest) == 1:
        return chosen | {"text": rest[0]}
    middle = chosen.get("language", -1)
    if len(rest) > 2 and {middle - 1, middle + 1} <= set(rest):
        # Bert-VITS2 adds phonemes to what GPT-SoVITS has
        return chosen | {"speaker": middle - 1, "text": middle + 1}
    if len(rest) != 2:
        raise DataError(f"{where} has an unknown format: {_column_hints(cells)}")
    before, last = rest
    if _looks_like_phonemes(cells[last], cells[before]):
        raise DataError(
            f"{where} has no header, and its column {last + 1} ({cells[last].iloc[0][:40]!r}) looks like phonemes. "
            f"XTTS reads text: add --columns text={before + 1}, or --columns text={last + 1} if these are the texts."
        )
    if "speaker" in columns or _same_words(cells[before], cells[last]):
        return chosen | {"text": last}
    if _looks_like_speakers(cells[last], cells[before]):
        names = cells[chosen["audio"]]
        if not (names.map(has_suffix).all() or cells[last].str.strip().str.isdecimal().all()):
            some = ", ".join(sorted({name.strip() for name in cells[last]})[:3])
            raise DataError(
                f"{where} has no header, and its column {last + 1} ({some}) looks like speakers, while LJSpeech has "
                f"the normalised text there. Add --columns text={before + 1},speaker={last + 1} if they are speakers, "
                f"or --columns text={last + 1} if they are the texts."
            )
        return chosen | {"text": before, "speaker": last}
    if "language" in chosen or _looks_like_speakers(cells[before], cells[last]):
        return chosen | {"text": last, "speaker": before}
    return chosen | {"text": last}


def _column_hints(cells: pd.DataFrame) -> str:
    first = ", ".join(repr(cell[:40]) for cell in cells.iloc[0])
    return (
        f"its first line has the columns {first}. Expected a header such as audio_file|text|speaker_name; or lines of "
        "id|text, with the recordings in a folder wavs beside the file; or JSON lines. Otherwise say which column is "
        "what, for example --columns audio=1,text=2, or name a formatter of coqui with --manifest-format."
    )


def _same_words(first: pd.Series[str], second: pd.Series[str]) -> bool:
    """Whether most of the texts of two columns differ in case and punctuation at most."""
    plain = [column.head(1000).map(_key) for column in (first, second)]
    return bool((plain[0] == plain[1]).mean() > 0.5)


def _looks_like_phonemes(column: pd.Series[str], other: pd.Series[str]) -> bool:
    """Whether most cells of a column have phonetic signs, which the texts of the other one do not have at all."""
    cells, usual = column.head(1000), phonetic_signs("".join(other.head(1000)))
    return is_phonemic("".join(cells)) and bool(cells.map(lambda cell: bool(phonetic_signs(cell) - usual)).mean() > 0.5)


def _looks_like_speakers(column: pd.Series[str], other: pd.Series[str]) -> bool:
    """Whether a column holds names rather than texts: short ones, without an end, that come again and again."""
    names, texts = column.str.strip(), other.str.strip()
    # a speaker can be missing in a row
    names = names[names != ""]
    words = names.str.count(r"\s+") + 1
    if names.empty or words.max() > 3 or names.str.endswith(_SENTENCE_END).any():
        return False
    repeats = names.nunique() * 2 <= len(names) and names.nunique() < texts.nunique()
    longer = words.max() == 1 and texts.str.len().mean() >= 2 * names.str.len().mean()
    # the same sentence in other words has some of them; a name has not
    shared = [
        bool(set(name.casefold().split()) & set(text.casefold().split()))
        for name, text in zip(names.head(1000), texts[names.index].head(1000), strict=True)
    ]
    unrelated = " " in "".join(texts.head(1000)) and sum(shared) * 2 < len(shared)
    return bool(repeats or longer or unrelated)
