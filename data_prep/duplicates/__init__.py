"""Which documents of a corpus repeat others: fingerprints of every document, links between them, clusters."""
