"""A parallel demonstration corpus, generated from a small grammar of ten languages (docs/demo_corpus.md)."""

from __future__ import annotations

from data_prep.demo_corpus.corpus import Corpus, Record, generate
from data_prep.demo_corpus.writing import write_corpus

__all__ = ["Corpus", "Record", "generate", "write_corpus"]
