"""A vocabulary for the mini base model, with the layout of a released XTTS vocabulary.

Released vocabularies are `tokenizers` BPE files: `[STOP]` 0, `[UNK]` 1, `[SPACE]` 2, then punctuation, letters and
merges, with the first language tags and `[START]` (261) among them. The entries are in lowercase, without word
markers, and merges are written as "a b".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

FIRST_TOKENS = ("[STOP]", "[UNK]", "[SPACE]")
FIRST_TAG_ID = 259
START_ID = 261
#: Characters that every vocabulary contains, even if they do not occur in the texts.
ALPHABET = "!'(),-./:;?¡¿abcdefghijklmnopqrstuvwxyzáéíñóúü"


def write_vocabulary(texts: Mapping[str, Sequence[str]], size: int, path: Path) -> None:
    """Learn BPE merges from texts and write an XTTS `vocab.json`. The same texts give the same file.

    Args:
        texts: Sentences in each language, for at most two languages. Their tags get the ids before `[START]`.
        size: Number of entries, which must be more than 262.
        path: Path of the file to write.
    """
    cleaner = VoiceBpeTokenizer()
    cleaned = [cleaner.preprocess_text(text, language) for language, lines in texts.items() for text in lines]
    reserved = {token: index for index, token in enumerate(FIRST_TOKENS)}
    reserved |= {f"[{language}]": FIRST_TAG_ID + index for index, language in enumerate(texts)}
    reserved["[START]"] = START_ID

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(reserved), initial_alphabet=list(ALPHABET), special_tokens=[], show_progress=False
    )
    learned.train_from_iterator(cleaned, trainer)
    model = json.loads(learned.to_str())["model"]

    free_ids = (index for index in range(size) if index not in reserved.values())
    entries = reserved | dict(zip(sorted(model["vocab"], key=model["vocab"].__getitem__), free_ids, strict=False))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": token, **flags} for token, index in reserved.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": dict(sorted(entries.items(), key=lambda entry: entry[1])),
            "merges": [" ".join(merge) for merge in model["merges"]],
        },
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=4), encoding="utf-8")
