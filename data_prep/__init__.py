"""Text to verified shards, on CPU: read, normalise, train a tokenizer, tokenise, write, verify. Never imports torch."""
