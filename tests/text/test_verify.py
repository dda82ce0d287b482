from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xtts_extend.errors import DataError, VocabularyError
from xtts_extend.text.verify import check_vocabulary, measure, read_lines
from xtts_extend.text.vocabulary import append_entries, load_vocabulary


@pytest.fixture
def extended(small_vocab: Path) -> Path:
    base = load_vocabulary(small_vocab)
    path = small_vocab.with_name("extended.json")
    path.write_text(append_entries(base, ["[am]"], ["ሰ", "ላ"], [("ሰ", "ላ")]), encoding="utf-8")
    return path


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_valid_extension(small_vocab: Path, extended: Path, write_text: Callable[..., Path]) -> None:
    texts = [write_text("The other one, and 12.\n\nécole\n", "en.txt"), write_text("ሰላ ሰላ።\n", "udhr/am.txt")]
    check = check_vocabulary(small_vocab, extended, texts)
    assert check.to_dict() == {
        "ok": True,
        "changed_ids": 0,
        "changed_lines": 0,
        "unknown_share": 1 / 21,
        "dead_entries": 0,
        "checked_lines": 1,
        "skipped_lines": 2,
        "changed_id_names": [],
        "changed_line_examples": [],
        "dead_entry_names": [],
    }


def test_changed_and_missing_ids(small_vocab: Path, extended: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        vocab = data["model"]["vocab"]
        vocab["z"], vocab["q"] = vocab["q"], vocab["z"]
        del vocab["x"]

    check = check_vocabulary(small_vocab, change(extended, edit), [])
    assert (check.changed_ids, sorted(check.changed_id_names)) == (3, ["q", "x", "z"])
    assert not check.ok


def test_lines_that_are_tokenized_differently(
    small_vocab: Path, extended: Path, write_text: Callable[..., Path]
) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["model"]["vocab"]["ot"] = 269
        data["model"]["merges"].append("o t")

    text = write_text("not\nnone\notter\nécot\n", "fr.txt")
    check = check_vocabulary(small_vocab, change(extended, edit), [text])
    assert (check.changed_ids, check.changed_lines, check.checked_lines, check.skipped_lines) == (0, 2, 3, 1)
    assert check.changed_line_examples == [f"{text}: not", f"{text}: otter"]
    assert not check.ok


def test_dead_entries(small_vocab: Path, extended: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["model"]["vocab"] |= {"whole": 269, "ሰላላ": 270}
        data["model"]["merges"] = [*data["model"]["merges"][:-1], "ላ ላ", "ሰ ላ", "ሰላ ላ"]
        data["model"]["vocab"]["ላላ"] = 271

    check = check_vocabulary(small_vocab, change(extended, edit), [])
    assert (check.dead_entries, sorted(check.dead_entry_names)) == (2, ["whole", "ሰላላ"])
    assert check.ok, "no old id and no line changed"


def test_the_stem_of_a_file_is_its_language(small_vocab: Path, extended: Path, write_text: Callable[..., Path]) -> None:
    """12 is read in the language of the file. "twelve" and "douze" can be spelled, "zwölf" cannot."""
    for name, skipped in (("en.txt", 0), ("FR.txt", 0), ("de.txt", 1), ("corpus.txt", 0), ("tr.txt", 0)):
        check = check_vocabulary(small_vocab, extended, [write_text("12", name)])
        assert (name, check.skipped_lines) == (name, skipped)


def test_numbers_that_coqui_fails_on_are_read_digit_by_digit(
    small_vocab: Path, extended: Path, write_text: Callable[..., Path]
) -> None:
    check = check_vocabulary(small_vocab, extended, [write_text("one\n" + "9" * 400 + "\n", "en.txt")])
    assert (check.checked_lines, check.skipped_lines) == (2, 0)


def test_invalid_input(small_vocab: Path, extended: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="No such file"):
        check_vocabulary(small_vocab, tmp_path / "missing.json", [])
    with pytest.raises(DataError, match=r"missing\.txt cannot be read"):
        check_vocabulary(small_vocab, extended, [tmp_path / "missing.txt"])
    with pytest.raises(DataError, match=r"byte 3 \(line 2\) is 0x80"):
        check_vocabulary(small_vocab, extended, [write_text(b"ab\n\x80")])


def test_read_lines(write_text: Callable[..., Path]) -> None:
    assert list(read_lines(write_text("\ufeffa\r\nሰ\n\nb".encode()))) == ["a\r\n", "ሰ\n", "\n", "b"]
    assert list(read_lines(write_text(""))) == []


def test_unknown_share_ignores_known_punctuation(small_vocab: Path) -> None:
    tokenizer = load_vocabulary(small_vocab).tokenizer
    assert measure(tokenizer, Counter({"ሰላ,": 3, "!": 2})).unknown_share == 1.0
    measured = measure(tokenizer, Counter({"the": 3, "ሰ": 1, "%": 1}))
    assert measured.unknown_share == 2 / 5
    assert measured.tokens_per_word == 1.0
    assert measure(tokenizer, Counter()).unknown_share == 0.0


def test_empty_text_is_an_error(
    small_vocab: Path, extended: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="so nothing was compared"):
        check_vocabulary(small_vocab, extended, [write_text("\n \n")])


def test_only_the_texts_of_a_manifest_are_compared(
    small_vocab: Path, extended: Path, write_text: Callable[..., Path]
) -> None:
    table = "wavs/1.wav|The other one.\nwavs/2.wav|And one, so.\n"
    for content, name in ((table, "en.txt"), (table.encode("utf-16"), "en.csv"), ("u-1 The one\nu-2 ሰላ\n", "en")):
        check = check_vocabulary(small_vocab, extended, [write_text(content, name)])
        assert (check.checked_lines, check.skipped_lines) == ((1, 1) if "u-" in str(content) else (2, 0))
    named = write_text("The one;ሰላ\nThe other;ላሰ\n", "en.csv")
    check = check_vocabulary(small_vocab, extended, [named], {"text": "1"})
    assert (check.checked_lines, check.skipped_lines) == (2, 0)


def test_decomposed_accents_of_coquis_languages_are_composed(
    shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    real = shared_data / "xtts_vocab.json"
    for name in ("fr.txt", "cs.txt", "ru.txt"):
        text = (shared_data / "udhr" / name).read_text(encoding="utf-8")
        for form in ("NFC", "NFD"):
            (tmp_path / form).mkdir(exist_ok=True)
            (tmp_path / form / name).write_text(unicodedata.normalize(form, text), encoding="utf-8")
    checks = [check_vocabulary(real, real, sorted((tmp_path / form).iterdir())) for form in ("NFC", "NFD")]
    assert checks[0] == checks[1]
    assert checks[0].checked_lines > 100
    assert "Combining accents were composed (NFD to NFC)" in caplog.text


def test_half_a_character_in_json(
    small_vocab: Path, extended: Path, write_text: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    text = write_text('{"text": "the \\ud83d one"}\n{"text": "other"}\n', "en.jsonl")
    assert check_vocabulary(small_vocab, extended, [text]).checked_lines == 2
    assert "Removed unpaired surrogates, left by truncated JSON escapes (number of texts: 1)." in caplog.text
