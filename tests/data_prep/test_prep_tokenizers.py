"""Builds with tokenizers of Hugging Face's library: what the shards and the manifest hold, and how it is checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hugging_face_tokenizers import KINDS, make_tokenizer
from small_corpus import build_in, text
from tokenizers import Tokenizer

from data_prep.command import inspect
from data_prep.encoding.reference import tokenizer_of
from data_prep.shard_tools.merge import merge_builds
from data_prep.verify import find_faults
from mlc.data.manifest import Manifest
from mlc.errors import RecipeError, ShardError

FILES = ["tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def use(corpus: Path, tokenizer: Path) -> None:
    """Let the corpus' recipe name a tokenizer."""
    recipe = (corpus / "prep.toml").read_text()
    (corpus / "prep.toml").write_text(recipe.replace("vocab_size = 360", f'path = "{tokenizer}"'))


def test_a_build_holds_the_tokenizers_own_ids(corpus: Path, kind: str) -> None:
    source = make_tokenizer(kind, corpus / "tokenizer")
    use(corpus, source)
    manifest = build_in(corpus)
    assert manifest == Manifest.read(corpus / "out")
    assert (manifest.tokenizer.kind, list(manifest.tokenizer.files)) == ("hugging_face", FILES)
    assert all((corpus / "out" / name).read_bytes() == (source / name).read_bytes() for name in FILES)
    assert find_faults(manifest) == []
    assert sorted(manifest.tokenizer.special_ids.values())[-1] == manifest.tokenizer.vocab_size - 1

    plain = Tokenizer.from_file(str(source / "tokenizer.json"))
    plain.no_truncation()
    for language in ("en", "zh"):
        shard = manifest.open(manifest.entry(f"pairs/en-{language}" if language == "zh" else "pairs/en-de"))
        found = [shard[-1 if language == "zh" else 0].sequence(i).tolist() for i in range(30)]
        assert found == [plain.encode(text(language, i, 8), add_special_tokens=False).ids for i in range(30)]


def test_documents_are_shown_as_text(corpus: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    use(corpus, make_tokenizer(kind, corpus / "tokenizer") / "tokenizer.json")  # the file alone is enough
    build_in(corpus)
    inspect(corpus / "out", samples=1, json_path=corpus / "seen.json")
    shown = json.loads((corpus / "seen.json").read_text())["details"]["pairs/en-de"]["samples"][0][0]
    assert shown.strip() == (text("en", 0, 8).lower() if kind == "bert" else text("en", 0, 8))
    assert shown in capsys.readouterr().out


def test_all_files_of_the_tokenizer_count(corpus: Path) -> None:
    source = make_tokenizer("bert", corpus / "tokenizer")
    use(corpus, source)
    manifest = build_in(corpus, "one")
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": "[none]"}))
    with pytest.raises(RecipeError, match="another state of the source files"):
        build_in(corpus, "one")
    other = build_in(corpus, "two")
    assert other.tokenizer.sha256 == manifest.tokenizer.sha256
    assert other.sha256 != manifest.sha256
    assert other.tokenizer.digest != manifest.tokenizer.digest
    with pytest.raises(RecipeError, match="different tokenizers"):
        merge_builds([manifest, other], corpus / "both")

    shutil.copy(corpus / "two/tokenizer_config.json", corpus / "one")
    assert any("tokenizer_config.json: sha256" in fault for fault in find_faults(manifest))
    with pytest.raises(ShardError, match="missing or another one"):
        manifest.check()
    (corpus / "one/tokenizer_config.json").unlink()
    assert any("tokenizer_config.json: no such file" in fault for fault in find_faults(manifest))


def test_two_workers_write_the_same_bytes_and_merged_builds_keep_all_files(corpus: Path) -> None:
    from data_prep.command import build

    use(corpus, make_tokenizer("xlmr", corpus / "tokenizer"))
    alone = build_in(corpus, "alone")
    again = build(corpus / "prep.toml", [f"build.output={corpus}/again"], workers=2).manifest
    assert again.sha256 == alone.sha256
    both = merge_builds([alone, again], corpus / "both")
    assert both.tokenizer == alone.tokenizer
    assert find_faults(both) == []
    ids = [shard.sequence(0) for shard in both.open(both.entry("pairs/en-de"))]
    assert tokenizer_of(both).decode(ids[0]).strip() == text("en", 0, 8)


def test_no_file_of_an_earlier_tokenizer_is_left(corpus: Path) -> None:
    trained = build_in(corpus)
    assert trained.tokenizer.kind == "sentencepiece"
    use(corpus, make_tokenizer("gpt2", corpus / "tokenizer"))
    build_in(corpus, overwrite=True)
    left = {path.name for path in (corpus / "out").iterdir() if path.name.startswith("tokenizer")}
    assert left == set(FILES)


def test_a_folder_without_a_tokenizer_is_refused(corpus: Path) -> None:
    (corpus / "tokenizer").mkdir()
    use(corpus, corpus / "tokenizer")
    with pytest.raises(RecipeError, match=r"needed tokenizer\.json"):
        build_in(corpus)
    (corpus / "tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(RecipeError, match="no tokenizer can be read"):
        build_in(corpus)
