"""Extend an XTTS vocabulary with a language's tag and letters, and with merges that cannot affect other languages."""

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

DROPPED = "contains a dropped character"

#: Default number of new entries when they are learned from text.
DEFAULT_SIZE = 2000


@dataclass(frozen=True)
class ExtensionReport:
    """Results of `extend_vocabulary`.

    Attributes:
        language: Code of the new language.
        base_size: Number of rows that a model with the base vocabulary needs, which is the largest id + 1.
        vocab_size: Number of rows that a model with the extended vocabulary needs.
        requested: Number of new entries that the user asked for.
        added: Number of new entries: the tag, `new_letters` and `merges_added`.
        new_letters: New single characters, most frequent first.
        merges_added: Number of new merges.
        merges_unused: Number of new merges that never apply to the text and were added only to reach the requested
            size.
        merges_learned: Number of merges that were learned.
        merges_refused: Number of learned merges that were rejected, by reason.
        unknown_share: Share of unknown tokens, with the keys `before` and `after`; see `verify.TextMeasure`. None if
            there is no text.
        tokens_per_word: Tokens per word, with the keys `before` and `after`; see `verify.TextMeasure`. None if there is
            no text.
        dropped_characters: Count of each non-printing character (as U+XXXX) that the cleaner drops.
        new_symbols: Count of each new character that is not a letter, mark or digit, whether or not it got an entry.
        left_out: Count of each new character that got no entry, because the user listed it or because it is a
            pictograph in a manifest.
        notes: Findings and advice for the user.
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
        """Return the report as a JSON-serializable dict."""
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
    """Add a language to an XTTS vocabulary, and write the result to a file.

    The text is cleaned with the language's cleaner (`languages.clean_text`). Each character in it that the base cannot
    spell becomes an entry. Merges are learned from the text with sentencepiece, or taken from a trained sentencepiece
    BPE model. A merge is accepted only if it contains a character that the base does not have, so that it cannot affect
    text in the old languages, and only if the base's merges do not preempt it, so that its token can occur. Old ids do
    not change; new ids follow the base's last id.

    >>> report = extend_vocabulary(Path("XTTS/vocab.json"), "am", Path("new.json"), texts=[Path("am.txt")], size=200)
    >>> report.added, report.vocab_size - report.base_size, report.unknown_share
    (200, 200, {'before': 1.0, 'after': 0.0})

    Args:
        base_vocab: The vocabulary to extend, or the path of its file.
        language: Code of the new language.
        output: Path of the file to write.
        texts: UTF-8 text files, or manifests, from which only the texts are read.
        size: Number of new entries, including the tag and the letters. The default is `DEFAULT_SIZE`, or all the merges
        in `sentencepiece_model`. If fewer can be formed, a note in the report says so.
        sentencepiece_model: A trained BPE model to take merges from.
        drop_characters: Characters that get no entry, either written literally or as code points such as U+1F600.
        columns: Columns of the manifests, from `data.columns.parse_columns`. By default, they are detected.

    Raises:
        VocabularyError: The base or the model is unusable, the base already has the tag, `size` is too small for the
            letters, or `output` is one of the inputs.
        DataError: A text file is missing, empty or not UTF-8.
        LanguageError: The code is malformed.
        MachineError: The output cannot be written.
    """
    base = base_vocab if isinstance(base_vocab, Vocabulary) else load_vocabulary(base_vocab)
    texts, output = [Path(text) for text in texts], Path(output)
    tag = language_tag(validate_code(language))
    if tag in base.unmatched_tags:
        raise VocabularyError(
            f"{base.path} has the tag {tag} as an entry but not in added_tokens, so the tag is never matched, and "
            f"'{language}' cannot be trained with this file. Extend the base's own vocab.json."
        )
    if tag in base.tokens:
        raise VocabularyError(
            f"{base.path} already has the tag {tag} (id {base.tokens[tag]}), so nothing needs to be added for "
            f"'{language}'. Train with the base's own vocabulary."
        )
    if not texts and sentencepiece_model is None:
        raise VocabularyError(
            f"There is nothing to learn '{language}' from. Pass text files, a sentencepiece model, or both."
        )
    _require_new_file(output, [base.path, *texts, *([Path(sentencepiece_model)] if sentencepiece_model else [])])

    drop = parse_characters(drop_characters) - known_characters(base)
    corpus = read_corpus(texts, language, known_characters(base), drop, columns) if texts else Corpus()
    words = corpus.words
    if sentencepiece_model is None:
        size = DEFAULT_SIZE if size is None else size
        letters = _missing_characters(base, words, [])
        learned = learn_merges(base, letters, words, _require_room(size, language, letters))
    else:
        usable, refused = read_pieces(Path(sentencepiece_model), base, language)
        pieces = [piece for piece in usable if drop.isdisjoint(piece)]
        if len(pieces) < len(usable):
            refused[DROPPED] += len(usable) - len(pieces)
        letters = _missing_characters(base, words, pieces)
        merges, unsafe = keep_safe_merges(base, [piece for piece in pieces if len(piece) > 1])
        candidates = len(merges) + refused.total() + unsafe.total()
        if size is not None:
            merges = merges[: _require_room(size, language, letters)]
        learned = LearnedMerges(merges, 0, candidates, refused + unsafe)

    extended = parse_vocabulary(append_entries(base, [tag], letters, learned.merges), output)
    require_extension(base, extended)
    if dead := dead_entries(base, extended):
        raise VocabularyError(
            f"{len(dead)} of the new entries would never be used: {first_ten(dead)}. Nothing was written."
        )
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
        merges_added=len(learned.merges),
        merges_unused=learned.unused,
        merges_learned=learned.learned,
        merges_refused=dict(learned.refused),
        unknown_share={"before": before.unknown_share, "after": after.unknown_share} if texts else None,
        tokens_per_word={"before": before.tokens_per_word, "after": after.tokens_per_word} if texts else None,
        dropped_characters={f"U+{ord(character):04X}": count for character, count in corpus.silent.most_common()},
        new_symbols=symbols,
        left_out=dict(corpus.left_out.most_common()),
        notes=_notes(language, size, extended.size - base.size, learned, corpus, symbols),
    )


def _require_new_file(output: Path, inputs: Iterable[Path]) -> None:
    if output.is_dir():
        raise VocabularyError(
            f"The output {output} is a folder. Pass the path of a file, such as {output / 'vocab.json'}."
        )
    for path in inputs:
        if output.resolve() == path.resolve() or (output.exists() and path.exists() and output.samefile(path)):
            raise VocabularyError(
                f"The output {output} is the same file as the input {path}, which is never overwritten. Choose a "
                "different path."
            )


def _missing_characters(base: Vocabulary, words: Counter[str], pieces: Iterable[str]) -> list[str]:
    """Return the characters in the words and pieces that the base cannot spell, ordered by frequency in the words."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    for piece in pieces:
        counts.update(dict.fromkeys(piece, 0))
    known = known_characters(base)
    return sorted((letter for letter in counts if letter not in known), key=lambda letter: (-counts[letter], letter))


def _symbols(letters: Iterable[str], corpus: Corpus) -> dict[str, int]:
    """Return the counts of new characters that are not letters, marks or digits, whether or not they got an entry."""
    counts = Counter(corpus.left_out)
    for word, count in corpus.words.items():
        for character in word:
            counts[character] += count
    new = {*letters, *corpus.left_out}
    return {character: count for character, count in counts.most_common() if character in new and is_symbol(character)}


def _require_room(size: int, language: str, letters: Sequence[str]) -> int:
    """Return how many merges fit in `size` after the tag and the letters. Raise VocabularyError if those do not fit."""
    needed = 1 + len(letters)
    if size < needed:
        raise VocabularyError(
            f"{size} new entries are too few for '{language}', because its tag and the {len(letters)} characters that "
            f"the base cannot spell need {needed}. Pass --size {needed} or more, or leave out rare characters with "
            f"--drop-characters (the rarest: {' '.join(letters[-10:])})."
        )
    return size - needed


def _notes(
    language: str, size: int | None, added: int, learned: LearnedMerges, corpus: Corpus, symbols: dict[str, int]
) -> list[str]:
    notes = []
    if old := learned.refused[OLD_CHARACTERS]:
        notes.append(
            f"'{language}' shares letters with the base. Merges that consist only of shared letters were rejected "
            f"({old:,} of {learned.learned:,}), because they could change how the old languages are tokenized."
        )
    if size is not None and added < size:
        notes.append(f"{size:,} new entries were requested, but only {added:,} could be formed.")
    if learned.unused:
        notes.append(
            f"This text never uses {learned.unused:,} of the new merges, so training on it cannot teach the model "
            f"their tokens. Pass more text, or --size {added - learned.unused}."
        )
    if corpus.silent:
        names = ", ".join(f"U+{ord(character):04X}" for character in corpus.silent)
        notes.append(f"The cleaner drops non-printing characters ({corpus.silent.total():,} in total): {names}.")
    if with_entry := [name_character(symbol) for symbol in symbols if symbol not in corpus.left_out]:
        notes.append(
            f"Some new entries are not letters, marks or digits: {first_ten(with_entry)}. Use --drop-characters to "
            "leave out those that are not spoken."
        )
    if corpus.left_out:
        notes.append(
            "No entry was added for these characters: "
            f"{first_ten([name_character(character) for character in corpus.left_out])}. They become unknown tokens, "
            "and training skips every text that contains one. Remove them from the texts."
        )
    return notes
