"""Languages, vocabularies and the tokenizer, which together turn text into token ids."""
