"""Text to token ids: training a tokenizer, encoding with the fastest exact engine, and a report on what came out."""
