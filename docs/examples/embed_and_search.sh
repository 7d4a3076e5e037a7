#!/bin/sh
# Search texts of many languages by a query in any of them.
#
#   sh docs/examples/embed_and_search.sh runs/demo/joint
#   sh docs/examples/embed_and_search.sh runs/base news.jsonl "elections in France" found/
#
# The file has an object a line with "text" and, if you like, "id" and "lang", which are shown with what is found.
set -eu
model=$1
folder=${4:-$(mktemp -d)}
mkdir -p "$folder"
query=${3:-"Der Prinz putzte drei rote Kerzen."}
if [ $# -ge 2 ]; then
    texts=$2
else
    texts=$folder/made_up.jsonl # in the manner of the demo's grammar
    cat > "$texts" <<'LINES'
{"id": "1", "lang": "en", "text": "The prince cleaned three red candles."}
{"id": "2", "lang": "en", "text": "The aunt ran to the park to examine a heavy apple."}
{"id": "3", "lang": "es", "text": "La tía compró una manzana en el parque."}
{"id": "4", "lang": "de", "text": "Am Morgen war es im Dorf bewölkt."}
LINES
fi

# Parquet keeps texts and ids beside the vectors. A corpus that is killed half-way goes on where it was; several ranks
# share one:  torchrun --nproc-per-node 8 -m mlc embed ...
mlc embed "$model" "$texts" --out "$folder/vectors.parquet"

# An exact index is right for up to some millions of vectors; beyond, --kind hnsw or ivf.
mlc search build "$folder/vectors.parquet" --out "$folder/index"
mlc search query "$folder/index" --model "$model" --text "$query" -k 3 # --json FILE for programs
