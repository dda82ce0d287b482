"""Base weights become our network: new rows, frozen rows, the GPT trainer."""
