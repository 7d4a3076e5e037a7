"""Finished shards: adopting other programs' ones, merging and splitting builds."""
