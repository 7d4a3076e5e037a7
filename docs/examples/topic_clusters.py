"""Texts in several languages by topic, without a label: k-means on embeddings.

    python docs/examples/topic_clusters.py runs/demo/joint
    python docs/examples/topic_clusters.py runs/base --data news.jsonl --clusters 8

The file has an object a line with "text", and where known "lang" and "topic". Without it the script makes up sentences
on food, clothes and the weather. A good multilingual space gives clusters of one topic and many languages; where
clusters are languages, the space knows the language better than the meaning.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sklearn.cluster import KMeans
from sklearn.metrics import v_measure_score

from data_prep.demo_corpus.corpus import generate
from mlc.tasks.encoder import TextEncoder

LANGUAGES = ("en", "de", "es", "tr")
TOPICS = {
    "food": {"apple", "cake", "orange", "egg", "tomato", "onion", "potato", "lemon", "banana", "carrot"},
    "clothes": {"coat", "hat", "shirt", "dress", "scarf", "skirt", "jacket"},
    "weather": {"raining", "snowing", "sun", "cloudy", "windy", "cold", "hot"},
}


def made_up_texts(documents: int) -> list[dict[str, str]]:
    """Sentences that are about one of the topics by their English words, in all languages."""
    held_out = generate(documents=1, held_out=documents, seed=13).held_out
    rows = []
    for number, english in enumerate(held_out["en"]):
        for line, sentence in enumerate(english["text"].split("\n")):
            said = set(re.findall(r"\w+", sentence))
            about = [topic for topic, words in TOPICS.items() if said & words]
            if len(about) == 1:
                for language in LANGUAGES:
                    text = held_out[language][number]["text"].split("\n")[line]
                    rows.append({"text": text, "lang": language, "topic": about[0]})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Cluster, and show what is in each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--data", type=Path, help="JSON lines")
    parser.add_argument("--clusters", type=int, default=len(TOPICS))
    chosen = parser.parse_args(arguments)
    if chosen.data:
        rows = [json.loads(line) for line in chosen.data.read_text().splitlines()]
    else:
        rows = made_up_texts(150)
        print(f"{len(rows)} made-up sentences")

    vectors = TextEncoder.load(chosen.model).encode([row["text"] for row in rows])
    # Several starts: k-means ends where it began badly. A fixed seed makes two runs comparable.
    found = KMeans(chosen.clusters, n_init=10, random_state=0).fit_predict(vectors)
    for cluster in range(chosen.clusters):
        inside = [row for row, place in zip(rows, found, strict=True) if place == cluster]
        print(f"cluster {cluster}: {len(inside)} texts", end="")
        for key in ("topic", "lang"):
            counts = Counter(row[key] for row in inside if key in row)
            print(";", ", ".join(f"{name} {count}" for name, count in counts.most_common()), end="")
        print(f"; such as: {inside[0]['text'][:60]}")
    for key in ("topic", "lang"):
        if all(key in row for row in rows):
            print(f"agreement with {key}: V-measure {v_measure_score([row[key] for row in rows], found):.3f}")


if __name__ == "__main__":
    main()
