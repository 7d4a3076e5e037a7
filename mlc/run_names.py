"""Names of the files that a run leaves in its folder (docs/checkpoints.md, docs/metrics.md, docs/finetune.md)."""

from __future__ import annotations

RECIPE_NAME = "recipe.toml"
"""In every checkpoint, and beside a job's script, too."""
OWNER_NAME = "owner.json"
METRICS_NAME = "metrics.jsonl"
EXIT_NAME = "exit.json"
SCORES_NAME = "scores.jsonl"
"""Of fine-tuning: scores on the way."""
TEST_NAME = "test.json"
"""Of fine-tuning: the best checkpoint's scores of the test."""
