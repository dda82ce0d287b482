from __future__ import annotations

import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_extend import files
from xtts_extend.errors import ConfigError, DataError, LanguageError, MachineError, VocabularyError
from xtts_extend.text.extend import DEFAULT_SIZE, DROPPED, check_vocabulary, extend_vocabulary
from xtts_extend.text.languages import clean_text
from xtts_extend.text.merges import BOUNDARY, OLD_CHARACTERS, PREEMPTED, UNCLEAN, keep_safe_merges
from xtts_extend.text.vocabulary import load_vocabulary, require_extension

AMHARIC = "ሰላም ለዓለም። ሰላምታ ለሁሉ፣ ለዓለሙ ሰላም ይሁን።\nሰላም ነው፧ አዎ ሰላም ነው።\n"
TEXTS = {
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "ti": "ብመንፅር ክብርን መሰልን ኩሎም ሰባት እንትውለዱ ነፃን ማዕሪን እዮም።",
    "yo": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
}


def encode_to_themselves(path: Path, tokens: list[str]) -> bool:
    tokenizer = Tokenizer.from_file(str(path))
    return all(tokenizer.encode(token).ids == [tokenizer.token_to_id(token)] for token in tokens)


# --- the real vocabulary


@pytest.mark.parametrize(
    ("language", "size", "added", "letters", "merges", "refused", "before"),
    [
        ("am", 600, 600, 145, 454, 0, 1.0),
        ("sw", 600, 17, 5, 11, 600, 0.0032658393207054214),
    ],
)
def test_the_real_vocabulary_keeps_its_ids_and_tokens(
    shared_data: Path,
    tmp_path: Path,
    language: str,
    size: int,
    added: int,
    letters: int,
    merges: int,
    refused: int,
    before: float,
) -> None:
    base_path, output = shared_data / "xtts_vocab.json", tmp_path / f"{language} አዲስ" / "vocab.json"
    texts = sorted((shared_data / "udhr").glob("*.txt"))
    untouched = base_path.read_bytes()
    report = extend_vocabulary(base_path, language, output, texts=[shared_data / "udhr" / f"{language}.txt"], size=size)
    assert base_path.read_bytes() == untouched
    assert os.listdir(output.parent) == ["vocab.json"], "no temporary file is left"
    assert (report.added, len(report.new_letters), report.merges_added) == (added, letters, merges)
    assert (report.base_size, report.vocab_size) == (5413, 5413 + added)
    # For Swahili, more merges are learned than requested, to find some with a new character.
    assert report.merges_refused.get(OLD_CHARACTERS, 0) == report.merges_learned - merges >= refused
    assert report.unknown_share == {"before": before, "after": 0.0}
    assert json.loads(json.dumps(report.to_dict()))["added"] == added

    base, extended = load_vocabulary(base_path), load_vocabulary(output)
    require_extension(base, extended)
    assert extended.tokens[f"[{language}]"] == 5413
    new = [token for token in extended.tokens if token not in base.tokens]
    assert encode_to_themselves(output, new)
    check = check_vocabulary(base_path, output, texts)
    assert (check.changed_ids, check.changed_lines, check.dead_entries) == (0, 0, 0)
    assert check.checked_lines > 1000
    assert check.ok

    # Coqui's own tokenizer gives the same ids.
    encode = getattr(VoiceBpeTokenizer.encode, "__wrapped__", VoiceBpeTokenizer.encode)
    old, new_tokenizer = VoiceBpeTokenizer(base_path), VoiceBpeTokenizer(output)
    assert new_tokenizer.get_number_tokens() == report.vocab_size
    compared = 0
    for code in ("cs", "de", "en", "es", "fr", "it", "nl", "pl", "pt", "ru", "tr"):
        for line in (shared_data / "udhr" / f"{code}.txt").read_text(encoding="utf-8").splitlines():
            ids = encode(old, line, code)
            if base.unk_id not in ids:
                assert encode(new_tokenizer, line, code) == ids
                compared += 1
    assert compared > 900


def test_extend_twice_with_a_stock_language_that_the_base_does_not_have(shared_data: Path, tmp_path: Path) -> None:
    udhr = shared_data / "udhr"
    first, second = tmp_path / "hu.json", tmp_path / "hu-am.json"
    report = extend_vocabulary(shared_data / "xtts_vocab.json", "hu", first, texts=[udhr / "hu.txt"], size=40)
    assert (report.added, report.new_letters) == (40, ["ő", "ű"])
    assert report.unknown_share is not None
    assert report.unknown_share["after"] == 0.0
    report = extend_vocabulary(first, "am", second, texts=[udhr / "am.txt"], size=300)
    assert (report.base_size, report.vocab_size) == (5453, 5753)
    assert check_vocabulary(first, second, sorted(udhr.glob("*.txt"))).ok
    assert check_vocabulary(shared_data / "xtts_vocab.json", second, sorted(udhr.glob("*.txt"))).ok


# --- new entries


def test_amharic_on_a_small_vocabulary(small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    output = tmp_path / "am.json"
    report = extend_vocabulary(small_vocab, "am", output, texts=[write_text(AMHARIC)], size=20)
    counts = Counter(clean_text(AMHARIC, "am"))
    letters = sorted(set(counts) - set(" .,?"), key=lambda letter: (-counts[letter], letter))
    assert report.new_letters == letters, "the most frequent come first"
    assert (report.added, report.merges_added, report.vocab_size) == (20, 20 - 1 - len(letters), 285)
    assert report.unknown_share == {"before": 1.0, "after": 0.0}
    assert report.tokens_per_word is not None
    assert report.tokens_per_word["after"] < report.tokens_per_word["before"]
    assert report.notes == []
    tokens = load_vocabulary(output).tokens
    assert [tokens[token] for token in ("[am]", *report.new_letters)] == list(range(265, 266 + len(letters)))
    entry = json.loads(output.read_text(encoding="utf-8"))["added_tokens"][-1]
    assert entry == {**json.loads(small_vocab.read_text())["added_tokens"][-1], "id": 265, "content": "[am]"}
    assert VoiceBpeTokenizer(output).tokenizer.encode("[am]ሰላም").ids == [265, tokens["ሰላም"]]


def test_the_same_input_gives_the_same_file(small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    text = write_text(AMHARIC * 3)
    extend_vocabulary(small_vocab, "am", tmp_path / "a.json", texts=[text], size=30)
    extend_vocabulary(small_vocab, "am", tmp_path / "b.json", texts=[text], size=30)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("code", sorted(TEXTS))
def test_languages_that_are_not_registered(
    code: str, shared_data: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    base_path, output = shared_data / "xtts_vocab.json", tmp_path / "vocab.json"
    report = extend_vocabulary(base_path, code, output, texts=[write_text(TEXTS[code])], size=100)
    base, extended = load_vocabulary(base_path), load_vocabulary(output)
    new = [token for token in extended.tokens if token not in base.tokens]
    assert encode_to_themselves(output, new)
    assert report.unknown_share is not None
    assert report.unknown_share["after"] == 0.0
    old = {token for token in base.tokens if len(token) == 1}
    assert all(not old.issuperset(token) for token in new), "every new entry has a new character"
    assert check_vocabulary(base_path, output, sorted((shared_data / "udhr").glob("*.txt"))).ok
    if code == "sw":
        assert (report.added, report.new_letters) == (1, [])
        assert any("Merges that consist only of shared letters were rejected" in note for note in report.notes)
        assert "100 new entries were requested, but only 1 could be formed." in report.notes


def test_nfd_and_nfc_corpora_give_the_same_vocabulary(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    for form in ("NFC", "NFD"):
        text = write_text(unicodedata.normalize(form, TEXTS["yo"] + TEXTS["vi"]), f"{form}.txt")
        extend_vocabulary(small_vocab, "yo", tmp_path / f"{form}.json", texts=[text], size=80)
    assert (tmp_path / "NFC.json").read_bytes() == (tmp_path / "NFD.json").read_bytes()
    assert load_vocabulary(tmp_path / "NFC.json").tokens.keys() >= {"ẹ", "\u0300", "đ"}


def test_merges_that_the_base_preempts_are_refused(small_vocab: Path) -> None:
    """`k a` is a merge of the base, so "ẹka" is tokenized to ẹ + ka, never to ẹk + a."""
    base = load_vocabulary(small_vocab)
    merges, refused = keep_safe_merges(base, ["ẹk", "ẹka", "ka", "xẹkan", "the", "ẹẹẹ"])
    assert merges == [("ẹ", "k"), ("ẹ", "ka")]
    assert refused == {OLD_CHARACTERS: 2, PREEMPTED: 2}


def test_more_merges_are_learned_until_the_size_is_reached(
    shared_data: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    """Most of the merges that sentencepiece learns first from Vietnamese are refused, and later ones replace them."""
    report = extend_vocabulary(
        shared_data / "xtts_vocab.json", "vi", tmp_path / "v.json", texts=[write_text(TEXTS["vi"])], size=30
    )
    assert report.added == 30
    assert report.merges_learned > report.merges_added
    assert report.merges_unused == 0


def test_a_size_that_the_text_is_too_short_for_is_reported(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "v.json"
    report = extend_vocabulary(small_vocab, "am", output, texts=[write_text("ሀለሐ ሀለሐ መሠ")], size=10**9)
    # The tag, five letters, the parts ሀለ, ሀለሐ and መሠ, and the unused ለሐ.
    assert (report.added, report.merges_added, report.merges_unused) == (10, 4, 1)
    assert report.notes == [
        "1,000,000,000 new entries were requested, but only 10 could be formed.",
        "This text never uses 1 of the new merges, so training on it cannot teach the model their tokens. Pass more "
        "text, or --size 9.",
    ]
    assert encode_to_themselves(output, ["ሀለ", "ሀለሐ", "መሠ", "ለሐ"])
    assert (
        extend_vocabulary(small_vocab, "am", output, texts=[write_text("ሀለሐ ሀለሐ መሠ")]).requested == DEFAULT_SIZE == 2000
    )


def test_a_size_without_room_for_the_letters_is_an_error(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    text = write_text("ሀለሐ ሀለሐ መሠ")
    message = (
        r"5 new entries are too few for 'am', because its tag and the 5 characters .* need 6\. .*rarest: ሀ ለ ሐ መ ሠ"
    )
    with pytest.raises(VocabularyError, match=message):
        extend_vocabulary(small_vocab, "am", tmp_path / "v.json", texts=[text], size=5)
    for size in (0, -3):
        with pytest.raises(VocabularyError, match="too few"):
            extend_vocabulary(small_vocab, "am", tmp_path / "v.json", texts=[text], size=size)
    assert not (tmp_path / "v.json").exists()
    assert extend_vocabulary(small_vocab, "am", tmp_path / "v.json", texts=[text], size=6).added == 6


def test_several_texts_with_odd_characters_and_tags(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [
        write_text("\ufeffሰላም\u00ad\u00ad\ue000 [en] [STOP]\x00\r\n".encode(), "ጽሑፍ አንድ.txt"),
        write_text("x" * 5000 + "ቀ ▁ቀ▅ 😀 \u200d", "b.txt"),
        write_text("", "empty is fine beside others.txt"),
    ]
    report = extend_vocabulary(small_vocab, "am", tmp_path / "v.json", texts=texts, size=60)
    assert report.dropped_characters == {"U+00AD": 2, "U+E000": 1, "U+0000": 1}
    assert any("drops non-printing characters (4 in total)" in note for note in report.notes)
    assert set(report.new_letters) == set("ሰላምቀ▁▅😀\u200d")
    assert report.unknown_share is not None
    assert report.unknown_share["after"] == 0.0


@pytest.mark.parametrize(("text", "letters"), [("▅▅ ▅▅", ["▅"]), ("▁▁", ["▁"]), ("ሰ" * 5000, ["ሰ"])])
def test_words_that_sentencepiece_skips_are_spelled_with_letters(
    text: str, letters: list[str], small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    report = extend_vocabulary(small_vocab, "yo", tmp_path / "v.json", texts=[write_text(text)], size=9)
    assert (report.new_letters, report.merges_added, report.unknown_share) == (letters, 0, {"before": 1, "after": 0})


def test_sentencepiece_does_not_normalize_the_text(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    """Its default, NFKC, would split ĳ into two letters, and the pieces would not match the text."""
    output = tmp_path / "v.json"
    report = extend_vocabulary(small_vocab, "yo", output, texts=[write_text("ĳsẹ ĳsẹ")], size=5)
    assert (report.new_letters, report.merges_added) == (["ĳ", "ẹ"], 2)
    assert "ĳsẹ" in load_vocabulary(output).tokens


# --- a trained sentencepiece model


def train_model(path: Path, words: list[str], **options: Any) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, hard_vocab_limit=False, minloglevel=2, **options
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture
def bpe_model(tmp_path: Path) -> Path:
    lines = [AMHARIC, "ሰላም ABC 12 ሰላም። the ẹkan"] * 3
    return train_model(tmp_path / "ሞዴል.model", lines, model_type="bpe", vocab_size=90, character_coverage=1.0)


def test_a_trained_model(small_vocab: Path, bpe_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.json"
    report = extend_vocabulary(small_vocab, "am", output, sentencepiece_model=bpe_model)
    assert report.unknown_share is None
    assert report.tokens_per_word is None
    assert {"ሰ", "ላ", "ም", "ዓ", "ẹ"} <= set(report.new_letters)
    assert not set(report.new_letters) & set("ABC12።፣▁")
    tokens = load_vocabulary(output).tokens
    assert {"ሰላም", "ለዓለ"} <= tokens.keys()
    assert not any("▁" in token or "።" in token for token in tokens)
    assert report.merges_refused.keys() >= {UNCLEAN, OLD_CHARACTERS}
    assert encode_to_themselves(output, [token for token in tokens if token not in load_vocabulary(small_vocab).tokens])
    fewer = extend_vocabulary(small_vocab, "am", output, sentencepiece_model=bpe_model, size=report.added - 3)
    assert fewer.added == report.added - 3
    assert fewer.new_letters == report.new_letters
    with pytest.raises(VocabularyError, match="too few"):
        extend_vocabulary(small_vocab, "am", output, sentencepiece_model=bpe_model, size=3)


def test_a_trained_model_and_text(
    small_vocab: Path, bpe_model: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    """Letters that only the text has are added too, so that all of its characters have tokens."""
    text = write_text("ጨረቃ ሰላም")
    report = extend_vocabulary(small_vocab, "am", tmp_path / "v.json", texts=[text], sentencepiece_model=bpe_model)
    assert {"ጨ", "ረ", "ቃ"} <= set(report.new_letters)
    assert report.unknown_share == {"before": 1.0, "after": 0.0}
    assert report.tokens_per_word == {"before": 3.0, "after": 2.0}


def test_pieces_that_span_words_are_refused(small_vocab: Path, tmp_path: Path) -> None:
    lines = ["ሰላም ለሁሉ ይሁን፡ሰላም ለሁሉ"] * 5
    model = train_model(
        tmp_path / "m.model", lines, model_type="bpe", vocab_size=40, split_by_whitespace=False, character_coverage=1.0
    )
    report = extend_vocabulary(small_vocab, "ti", tmp_path / "v.json", sentencepiece_model=model)
    assert report.merges_refused[BOUNDARY] > 0


def test_unusable_models(small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    unigram = train_model(tmp_path / "u.model", [AMHARIC] * 5, model_type="unigram", vocab_size=30)

    def extend(model: Path) -> None:
        extend_vocabulary(small_vocab, "am", tmp_path / "v.json", sentencepiece_model=model)

    with pytest.raises(VocabularyError, match="of type UNIGRAM.*fixed order.*model_type='bpe'"):
        extend(unigram)
    with pytest.raises(VocabularyError, match="No such file"):
        extend(tmp_path / "missing.model")
    with pytest.raises(VocabularyError, match="not a sentencepiece model"):
        extend(write_text("this is text", "text.model"))
    with pytest.raises(VocabularyError, match="has no pieces"):
        extend(write_text("", "empty.model"))
    with pytest.raises(VocabularyError, match="not a sentencepiece model"):
        extend(write_text(unigram.read_bytes()[:-7], "truncated.model"))
    assert not (tmp_path / "v.json").exists()


# --- invalid input


def test_a_language_that_the_base_has(small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    message = r"already has the tag \[fr\] \(id 264\), so nothing needs to be added for 'fr'"
    with pytest.raises(VocabularyError, match=message):
        extend_vocabulary(small_vocab, "fr", tmp_path / "v.json", texts=[write_text("a")])
    with pytest.raises(LanguageError, match="malformed"):
        extend_vocabulary(small_vocab, "AM", tmp_path / "v.json", texts=[write_text("a")])


def test_unusable_texts(small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    def extend(*texts: Path) -> None:
        extend_vocabulary(small_vocab, "am", tmp_path / "v.json", texts=texts)

    with pytest.raises(VocabularyError, match="There is nothing to learn 'am' from"):
        extend()
    with pytest.raises(DataError, match=r"missing\.txt cannot be read: No such file"):
        extend(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="Is a directory"):
        extend(tmp_path)
    with pytest.raises(DataError, match=r"No text in .*empty\.txt is left after cleaning for "):
        extend(write_text("", "empty.txt"))
    with pytest.raises(DataError, match="No text in .* is left after cleaning"):
        extend(write_text('\ufeff "\u200b" \n\n', "silent.txt"))
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8: byte 16 \(line 2\) is 0xe9"):
        extend(write_text("ሰላም\nok caf".encode() + b"\xe9 x", "latin.txt"))
    with pytest.raises(DataError, match=r"byte 4 \(line 1\) is 0xff"):
        extend(write_text(b"\xef\xbb\xbfa\xff", "bom.txt"))
    with pytest.raises(DataError, match="byte 0xff at offset 0"):
        extend(write_text("ሰላም".encode("utf-16"), "utf-16.txt"))
    assert not (tmp_path / "v.json").exists()


def test_inputs_are_never_overwritten(small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    text = write_text(AMHARIC)
    (tmp_path / "hard link.json").hardlink_to(small_vocab)
    (tmp_path / "link.json").symlink_to(small_vocab)
    for output in (
        small_vocab,
        tmp_path / "hard link.json",
        tmp_path / "link.json",
        tmp_path / "x" / ".." / "base.json",
    ):
        with pytest.raises(VocabularyError, match="never overwritten"):
            extend_vocabulary(small_vocab, "am", output, texts=[text])
    with pytest.raises(VocabularyError, match="never overwritten"):
        extend_vocabulary(small_vocab, "am", text, texts=[text])
    with pytest.raises(VocabularyError, match="is a folder"):
        extend_vocabulary(small_vocab, "am", tmp_path, texts=[text])
    assert load_vocabulary(small_vocab).size == 265
    assert text.read_text(encoding="utf-8") == AMHARIC


def test_a_failed_write_leaves_the_old_file(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "vocab.json"
    output.parent.mkdir()
    output.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(MachineError, match=r"vocab\.json could not be written: the disk is full"):
        extend_vocabulary(small_vocab, "am", output, texts=[write_text(AMHARIC)])
    assert os.listdir(output.parent) == ["vocab.json"]
    assert output.read_text() == "old"
    with pytest.raises(ConfigError, match="is a file; expected a folder"):
        extend_vocabulary(small_vocab, "am", output / "below a file.json", texts=[write_text(AMHARIC)])


# --- manifests, and characters that are not spoken


def test_only_the_texts_of_a_manifest_are_used(shared_data: Path, tmp_path: Path) -> None:
    base, output = load_vocabulary(shared_data / "xtts_vocab.json"), tmp_path / "am.json"
    manifest = shared_data / "wild" / "manifest-as-corpus.csv"
    report = extend_vocabulary(base.path, "am", output, texts=[manifest])
    new = load_vocabulary(output).tokens.keys() - base.tokens.keys()
    assert {"[am]", *"ሰላምለዓቡና", "@"} <= new
    assert not {character for token in new for character in token} & set("|_😀0123")
    assert not {token for token in new if "wav" in token or "audio" in token}
    assert (report.new_symbols, report.left_out) == ({"😀": 1, "@": 1}, {"😀": 1})
    assert any("'@' (U+0040). Use --drop-characters to leave out those" in note for note in report.notes)
    assert any("No entry was added for these characters: '😀' (U+1F600)." in note for note in report.notes)
    report = extend_vocabulary(base.path, "am", output, texts=[manifest], drop_characters="@")
    assert (report.new_symbols, report.left_out) == ({"😀": 1, "@": 1}, {"😀": 1, "@": 1})
    assert not {token for token in load_vocabulary(output).tokens.keys() - base.tokens.keys() if "@" in token}


@pytest.mark.parametrize(
    ("text", "letters", "symbols", "left_out"),
    [
        pytest.param("ሰ ☎️ 👍🏽 👩\u200d👧 🇪🇹 ለ", "ለሰ", "☎👍🏽👩👧🇪🇹", "☎\ufe0f👍🏽👩\u200d👧🇪🇹", id="emoji"),
        pytest.param("ሰ° №5 ᎐ क्\u200dष", "°№᎐ሰकष\u200d\u094d", "°№᎐", "", id="signs and joiners"),
        pytest.param("ሰ\u200b\u2060\ufeff\u0007\ue000ለ", "ለሰ", "", "", id="non-printing characters"),
        pytest.param("e\u0323\u0301ሰ", "ẹ\u0301ሰ", "", "", id="decomposed letters"),
    ],
)
def test_new_characters_in_a_manifest(
    text: str,
    letters: str,
    symbols: str,
    left_out: str,
    small_vocab: Path,
    write_text: Callable[..., Path],
    tmp_path: Path,
) -> None:
    manifest = write_text(f"\ufeffaudio_file|text\r\nwavs/a.wav|{text}\r\n", "train.csv")
    report = extend_vocabulary(small_vocab, "yo", tmp_path / "v.json", texts=[manifest], size=30)
    assert set(report.new_letters) == set(letters)
    assert set(report.new_symbols) == set(symbols)
    assert set(report.left_out) == set(left_out)


def test_the_columns_of_a_manifest_can_be_named(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = write_text("a.wav;ọẹ ọẹ;ሰላም\nb.wav;ọẹ ẹọ;ሰላም\n", "list.txt")
    report = extend_vocabulary(small_vocab, "yo", tmp_path / "v.json", texts=[manifest], size=30, columns={"text": "3"})
    assert set(report.new_letters) == set("ሰላም")


def test_a_wrong_encoding_is_reported(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = write_text("ọẹ\nẹọ donâ€™t\nọ ẹ itâ€™s\n")
    extend_vocabulary(small_vocab, "yo", tmp_path / "v.json", texts=[text], size=30)
    found = "number of damaged texts: 2 (UTF-8 decoded as a different encoding: 'ẹọ donâ€™t')."
    assert f"corpus.txt: {found}" in caplog.text


@pytest.mark.parametrize("drop", ["ẸX", "E\u0323 x", "U+1EB8 u+0078"])
def test_drop_characters(drop: str, small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path) -> None:
    """The base has x, which stays. Uppercase characters are dropped in their cleaned form."""
    report = extend_vocabulary(
        small_vocab, "yo", tmp_path / "v.json", texts=[write_text("Ọxẹ ọẹ xọ")], size=30, drop_characters=drop
    )
    assert (report.new_letters, report.left_out, report.new_symbols) == (["ọ"], {"ẹ": 2}, {})
    assert {"ọx", "xọ"} <= load_vocabulary(tmp_path / "v.json").tokens.keys()
    assert not [token for token in load_vocabulary(tmp_path / "v.json").tokens if "ẹ" in token]


def test_pieces_with_dropped_characters_are_refused(
    small_vocab: Path, write_text: Callable[..., Path], tmp_path: Path
) -> None:
    model = train_model(tmp_path / "m.model", ["ሀለ መሠ"] * 5, model_type="bpe", vocab_size=12)
    report = extend_vocabulary(small_vocab, "am", tmp_path / "v.json", sentencepiece_model=model, drop_characters="ሠ")
    assert set(report.new_letters) == set("ሀለመ")
    assert report.merges_refused[DROPPED] == 2


def test_a_tag_that_is_never_matched_cannot_be_extended(
    write_vocab: Callable[..., Path], small_vocab_data: dict[str, Any], write_text: Callable[..., Path], tmp_path: Path
) -> None:
    small_vocab_data["model"]["vocab"]["[am]"] = 265
    with pytest.raises(
        VocabularyError, match=r"\[am\] as an entry but not in added_tokens, so the tag is never matched"
    ):
        extend_vocabulary(write_vocab(small_vocab_data), "am", tmp_path / "v.json", texts=[write_text(AMHARIC)])
