"""From text to token ids: languages, vocabularies and the tokenizer."""
