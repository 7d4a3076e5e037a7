"""Multilingual contrastive pre-training of General Language Models."""

__version__ = "0.1.0"
