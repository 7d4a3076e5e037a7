"""Tasks that a model is fine-tuned for: their rows, losses, answers and scores. See docs/finetune.md."""
