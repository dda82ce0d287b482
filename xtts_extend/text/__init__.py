"""A sentence becomes token ids: vocabulary, tokenizer, languages."""
