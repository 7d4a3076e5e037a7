"""`mlc prep adopt`, `merge`, `split` and `verify --jobs`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

from small_corpus import build_in
from typer.testing import CliRunner

from data_prep.command import app
from mlc.data.manifest import Manifest


def run(*arguments: object) -> tuple[int, str]:
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return ended.exit_code, ended.output + str(ended.exception or "")


def test_split_merge_and_verify(corpus: Path) -> None:
    whole = build_in(corpus)
    out, train, dev = (corpus / name for name in ("out", "train", "dev"))
    code, said = run("split", out, "--first", train, "--second", dev, "--share", 0.3)
    assert code == 0, said
    assert said.count("manifest") == 2
    code, said = run("merge", train, dev, "--output", corpus / "both")
    assert code == 0, said
    both = Manifest.read(corpus / "both")
    assert {entry.name: entry.documents for entry in both.shards} == {
        entry.name: entry.documents for entry in whole.shards
    }
    for jobs in (1, 2):
        code, said = run("verify", corpus / "both", "--jobs", jobs, "--json", corpus / "faults.json")
        assert code == 0, said
        assert json.loads((corpus / "faults.json").read_text())["faults"] == []
    code, said = run("merge", train, "--output", corpus / "one")
    assert code != 0
    assert "nothing to merge" in said


def test_adopt(corpus: Path) -> None:
    whole = build_in(corpus)
    out = corpus / "out"
    pair = f"en-de={out}/pairs/en-de.en,{out}/pairs/en-de.de"
    tokenizer = out / "tokenizer.model"
    code, said = run(
        "adopt", corpus / "adopted", "--tokenizer", tokenizer, "--shard", f"de={out}/documents/de", "--shard", pair
    )
    assert code == 0, said
    adopted = Manifest.read(corpus / "adopted")
    assert [entry.tokens for entry in adopted.shards] == [
        whole.entry(name).tokens for name in ("documents/de", "pairs/en-de")
    ]
    for wrong in ("de", "de=", "en-de=one", "en-de-fr=a,b,c"):
        code, said = run("adopt", corpus / "no", "--tokenizer", tokenizer, "--shard", wrong)
        assert code != 0
        assert "this names no shard" in said
