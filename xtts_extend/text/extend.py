"""Extends an XTTS vocabulary by a language: its tag, its letters, and merges that cannot touch old text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xtts_extend.errors import VocabularyError
from xtts_extend.files import atomic_write
from xtts_extend.text.corpus import Corpus, is_symbol, parse_characters, read_corpus
from xtts_extend.text.languages import language_tag, validate_code
from xtts_extend.text.merges import (
    OLD_CHARACTERS,
    LearnedMerges,
    keep_safe_merges,
    known_characters,
    learn_merges,
    read_pieces,
)
from xtts_extend.text.verify import VocabularyCheck, check_vocabulary, dead_entries, measure
from xtts_extend.text.vocabulary import (
    Vocabulary,
    append_entries,
    first_ten,
    load_vocabulary,
    name_character,
    parse_vocabulary,
    require_extension,
)

__all__ = ["DEFAULT_SIZE", "ExtensionReport", "VocabularyCheck", "check_vocabulary", "extend_vocabulary"]

DROPPED = "holds a character that was to be left out"

# New entries to learn from text when nobody says how many.
DEFAULT_SIZE = 2000


@dataclass(frozen=True)
class ExtensionReport:
    """What `extend_vocabulary` did.

    `added` new entries are the tag, `new_letters` (the most frequent first) and `merges_added`; `requested` is the
    size asked for. `merges_unused` of the merges never apply to the text, they fill up to the size asked for.
    `merges_refused` counts learned merges by why they were not admitted. `unknown_share` and
    `tokens_per_word` hold `before` and `after`, as `verify.measure` gives them, and are None without text.
    `dropped_characters` are those of the text that the cleaner drops because nothing is spoken by them. `new_symbols`
    are the characters, new to the base, that are no letters, marks or digits, with how often each occurs; those that
    are also in `left_out`, which the user named or which are pictures in a manifest, got no entry.
    """

    language: str
    base_size: int
    vocab_size: int
    requested: int | None
    added: int
    new_letters: list[str]
    merges_added: int
    merges_unused: int
    merges_learned: int
    merges_refused: dict[str, int]
    unknown_share: dict[str, float] | None
    tokens_per_word: dict[str, float] | None
    dropped_characters: dict[str, int]
    new_symbols: dict[str, int]
    left_out: dict[str, int]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def extend_vocabulary(
    base_vocab: Path | Vocabulary,
    language: str,
    output: Path,
    *,
    texts: Sequence[Path] = (),
    size: int | None = None,
    sentencepiece_model: Path | None = None,
    drop_characters: str = "",
    columns: Mapping[str, str] | None = None,
) -> ExtensionReport:
    """Append a language to an XTTS vocabulary and write the result to `output`.

    Of a manifest among the `texts` only its texts count; `columns` says where they are (`data.columns.parse_columns`),
    if that is not to be recognised. The text is cleaned as the language is
    (`languages.clean_text`); every character of it that the base cannot spell becomes an entry. Merges are learned from
    it with sentencepiece, or taken from a trained sentencepiece BPE model. A merge is admitted only when it holds a
    character that the base does not have, so that it cannot fire on old text, and when the base's own merges leave room
    for it, so that it is really given. Old ids stay; new ones follow the base's last.

    `size` is the number of new entries, tag and letters included; None means `DEFAULT_SIZE` when learning, and all that
    a given sentencepiece model has. When fewer can be formed, the report says so. `drop_characters` get no entry;
    one can be written as U+1F600.

    Raises VocabularyError (base or model unusable, tag already there, `size` too small for the letters, `output` is an
    input), DataError (text missing, empty, not UTF-8), LanguageError (malformed code), MachineError (cannot write).
    """
    base = base_vocab if isinstance(base_vocab, Vocabulary) else load_vocabulary(base_vocab)
    texts, output = [Path(text) for text in texts], Path(output)
    tag = language_tag(validate_code(language))
    if tag in base.unmatched_tags:
        raise VocabularyError(
            f"{base.path} has the tag {tag} as an entry and not among its added tokens: the tag is never matched, and "
            f"'{language}' cannot be trained with it. Extend the base's own vocab.json."
        )
    if tag in base.tokens:
        raise VocabularyError(
            f"{base.path} already has the tag {tag} (id {base.tokens[tag]}): the base knows '{language}' and needs no "
            "extension. Train with the base's own vocabulary."
        )
    if not texts and sentencepiece_model is None:
        raise VocabularyError(f"Nothing to learn '{language}' from: give text files, a sentencepiece model, or both.")
    _require_free(output, [base.path, *texts, *([Path(sentencepiece_model)] if sentencepiece_model else [])])

    drop = parse_characters(drop_characters) - known_characters(base)
    corpus = read_corpus(texts, language, known_characters(base), drop, columns) if texts else Corpus()
    words = corpus.words
    if sentencepiece_model is None:
        size = DEFAULT_SIZE if size is None else size
        letters = _missing_characters(base, words, [])
        wanted = _require_room(size, language, letters)
        found = learn_merges(base, letters, words, wanted)
    else:
        read, refused = read_pieces(Path(sentencepiece_model), base, language)
        pieces = [piece for piece in read if drop.isdisjoint(piece)]
        if len(pieces) < len(read):
            refused[DROPPED] += len(read) - len(pieces)
        letters = _missing_characters(base, words, pieces)
        merges, refused_too = keep_safe_merges(base, [piece for piece in pieces if len(piece) > 1])
        learned = len(merges) + refused.total() + refused_too.total()
        if size is not None:
            merges = merges[: _require_room(size, language, letters)]
        found = LearnedMerges(merges, 0, learned, refused + refused_too)

    extended = parse_vocabulary(append_entries(base, [tag], letters, found.merges), output)
    require_extension(base, extended)
    if dead := dead_entries(base, extended):
        raise VocabularyError(f"{len(dead)} new entries would never be given: {', '.join(dead[:10])}. Nothing written.")
    before, after = measure(base.tokenizer, words), measure(extended.tokenizer, words)
    symbols = _symbols(letters, corpus)
    with atomic_write(output) as file:
        file.write(extended.content.encode())
    return ExtensionReport(
        language=language,
        base_size=base.size,
        vocab_size=extended.size,
        requested=size,
        added=extended.size - base.size,
        new_letters=letters,
        merges_added=len(found.merges),
        merges_unused=found.unused,
        merges_learned=found.learned,
        merges_refused=dict(found.refused),
        unknown_share={"before": before.unknown_share, "after": after.unknown_share} if texts else None,
        tokens_per_word={"before": before.tokens_per_word, "after": after.tokens_per_word} if texts else None,
        dropped_characters={f"U+{ord(character):04X}": count for character, count in corpus.silent.most_common()},
        new_symbols=symbols,
        left_out=dict(corpus.left_out.most_common()),
        notes=_notes(language, size, extended.size - base.size, found, corpus, symbols),
    )


def _require_free(output: Path, inputs: Iterable[Path]) -> None:
    if output.is_dir():
        raise VocabularyError(f"Output {output} is a folder; give the path of a file, such as {output / 'vocab.json'}.")
    for path in inputs:
        if output.resolve() == path.resolve() or (output.exists() and path.exists() and output.samefile(path)):
            raise VocabularyError(f"Output {output} is the input {path}, which is never written to. Give another path.")


def _missing_characters(base: Vocabulary, words: Counter[str], pieces: Iterable[str]) -> list[str]:
    """Characters of text and pieces that the base cannot spell, the most frequent in the text first."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    for piece in pieces:
        counts.update(dict.fromkeys(piece, 0))
    known = known_characters(base)
    return sorted((letter for letter in counts if letter not in known), key=lambda letter: (-counts[letter], letter))


def _symbols(letters: Iterable[str], corpus: Corpus) -> dict[str, int]:
    """The new characters that are no letters, marks or digits, with an entry or without one."""
    counts = Counter(corpus.left_out)
    for word, count in corpus.words.items():
        for character in word:
            counts[character] += count
    new = {*letters, *corpus.left_out}
    return {character: count for character, count in counts.most_common() if character in new and is_symbol(character)}


def _require_room(size: int, language: str, letters: Sequence[str]) -> int:
    """The number of merges that `size` has room for; VocabularyError when not even tag and letters fit."""
    needed = 1 + len(letters)
    if size < needed:
        raise VocabularyError(
            f"{size} new entries are too few for '{language}': its tag and the {len(letters)} characters that the base "
            f"cannot spell take {needed}. Give a size of {needed} or more, or leave rare characters out with "
            f"--drop-characters (the rarest: {' '.join(letters[-10:])})."
        )
    return size - needed


def _notes(
    language: str, size: int | None, added: int, found: LearnedMerges, corpus: Corpus, symbols: dict[str, int]
) -> list[str]:
    notes = []
    if old := found.refused[OLD_CHARACTERS]:
        notes.append(
            f"'{language}' shares letters with the base: {old} of {found.learned} learned merges are made of them "
            "alone and were refused, because they could change how the old languages are cut."
        )
    if size is not None and added < size:
        notes.append(f"{size} new entries were asked for, {added} could be formed.")
    if found.unused:
        notes.append(
            f"{found.unused} of the new merges never apply to this text, so training on it will not teach them: give "
            f"more text, or a size of {added - found.unused}."
        )
    if corpus.silent:
        names = ", ".join(f"U+{ord(character):04X}" for character in corpus.silent)
        notes.append(f"The cleaner drops {corpus.silent.total()} characters that nothing is spoken by: {names}.")
    if got := [name_character(symbol) for symbol in symbols if symbol not in corpus.left_out]:
        notes.append(
            f"New entries that are no letters, marks or digits: {first_ten(got)}. Leave out those that nobody speaks "
            "with --drop-characters."
        )
    if corpus.left_out:
        notes.append(
            f"Left out: {first_ten([name_character(character) for character in corpus.left_out])}. Texts with one of "
            "them have unknown tokens and are not trained on: take it out of them."
        )
    return notes
