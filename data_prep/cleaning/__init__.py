"""Cleaning of documents: which are dropped and why, and what is replaced in those that stay."""
