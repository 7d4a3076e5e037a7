"""Finds bad nodes before training: one process a node, `mlc check cluster` (docs/node_check.md)."""
