"""Where the records of a build may be: line-aligned files, tables without a header, data sets; and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest
import zstandard
from small_corpus import text

from data_prep.command import build
from data_prep.plan import plan_shards
from data_prep.recipe import PrepRecipe
from data_prep.tokenizer import Tokenizer
from data_prep.units import plan_units
from data_prep.verify import find_faults
from mlc.config import read_recipe
from mlc.data.manifest import NO_GROUP, Manifest, group_number
from mlc.errors import DataError, RecipeError

SECONDS = ("de", "zh")
COUNT = 40


def side(language: str, i: int) -> str:
    return text(language, i, 9)


def write_recipe(home: Path, tables: str) -> Path:
    (home / "prep.toml").write_text(f'[build]\noutput = "{home}/out"\n[tokenizer]\nvocab_size = 340\n{tables}')
    return home / "prep.toml"


def pairs(home: Path, keys: str) -> Path:
    return write_recipe(home, f'[[pairs]]\nfirst = "en"\nseconds = {json.dumps(SECONDS)}\n{keys}\n')


def check_pairs(manifest: Manifest, groups: Sequence[int]) -> None:
    """The shards hold the pairs of `side`, in order."""
    assert find_faults(manifest) == []
    tokenizer = Tokenizer(manifest.folder / manifest.tokenizer.file)
    for second in SECONDS:
        entry = manifest.entry(f"pairs/en-{second}")
        english, other = manifest.open(entry)
        assert [tokenizer.decode(english.sequence(i)) for i in range(COUNT)] == [side("en", i) for i in range(COUNT)]
        assert [tokenizer.decode(other.sequence(i)) for i in range(COUNT)] == [side(second, i) for i in range(COUNT)]
        assert manifest.groups(entry).tolist() == groups


def write_lines(path: Path, language: str, numbers: Sequence[int]) -> None:
    content = "".join(side(language, i) + "\n" for i in numbers).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(pack(content))


def test_line_aligned_files(tmp_path: Path) -> None:
    for second in SECONDS:
        for part, numbers in enumerate((range(15), range(15, COUNT))):
            write_lines(tmp_path / f"{part}.en-{second}.en.gz", "en", numbers)
            write_lines(tmp_path / f"{part}.en-{second}.{second}", second, numbers)
    keys = f'format = "moses"\npaths = ["{tmp_path}/*.en-{{second}}.en.gz"]\nsecond_paths = ["{tmp_path}/*.{{second}}"]'
    recipe = pairs(tmp_path, keys)
    manifest = build(recipe).manifest
    check_pairs(manifest, [NO_GROUP] * COUNT)
    assert manifest.entry("pairs/en-de").sources == tuple(
        str(tmp_path / name) for name in ("0.en-de.en.gz", "1.en-de.en.gz", "0.en-de.de", "1.en-de.de")
    )
    write_lines(tmp_path / "1.en-de.de", "de", range(COUNT - 15))  # the second side counts for "up to date"
    with pytest.raises(RecipeError, match="another state of the source files"):
        build(recipe)
    manifest = build(recipe, overwrite=True, overrides=["build.max_rejected_fraction=0.5"]).manifest
    assert manifest.entry("pairs/en-de").dropped == {}
    (tmp_path / "0.en-de.de").unlink()
    with pytest.raises(RecipeError, match=r"pairs\[0\]: .*2 files of paths, 1 of second_paths"):
        build(recipe)


def test_a_second_side_that_changes_makes_other_units(tmp_path: Path) -> None:
    for second in SECONDS:
        write_lines(tmp_path / f"{second}.en", "en", range(COUNT))
        write_lines(tmp_path / f"{second}.{second}", second, range(COUNT))
    keys = (
        f'format = "moses"\npaths = ["{tmp_path}/{{second}}.en"]\nsecond_paths = ["{tmp_path}/{{second}}.{{second}}"]'
    )
    plan, _ = plan_shards(read_recipe(pairs(tmp_path, keys), PrepRecipe), "r.toml")
    (before,) = plan_units([plan], 1 << 20)[plan.name]
    assert before.bytes == sum((tmp_path / name).stat().st_size for name in ("de.en", "de.de")) == plan.source_bytes
    write_lines(tmp_path / "de.de", "de", range(1, COUNT))
    with pytest.raises(DataError, match=r"de\.de: a source file has changed"):
        before.parts[0].check()
    (after,) = plan_units([plan], 1 << 20)[plan.name]
    assert after.key() != before.key()


def test_units_are_not_taken_over_from_another_way_of_reading(tmp_path: Path) -> None:
    """A build that was interrupted, and whose recipe names another field then."""
    rows = [{"text": side("en", i), "title": side("de", i)} for i in range(COUNT)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = {}
    for more in ('text_field = "text"', 'text_field = "title"', 'sequences = "sentence"', "max_documents = 3"):
        recipe = write_recipe(tmp_path, f'[[documents]]\nlanguage = "en"\npaths = ["{tmp_path}/a.jsonl"]\n{more}\n')
        (plan,) = plan_shards(read_recipe(recipe, PrepRecipe), "r.toml")
        (unit,) = plan_units([plan], 1 << 20)[plan.name]
        keys[more] = unit.key()
    assert len(set(keys.values())) == 3
    assert (
        keys['text_field = "text"'] == keys["max_documents = 3"]
    )  # how many are taken is settled when shards are joined


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".txt.zst"])
def test_tables_without_a_header(tmp_path: Path, suffix: str) -> None:
    delimiter = {".tsv": "\t", ".csv": ",", ".txt.zst": "|"}[suffix]
    for second in SECONDS:
        lines = [delimiter.join(["0.7", side("en", i), side(second, i), str(i)]) for i in range(COUNT)]
        content = "\n".join(lines).encode()
        pack = zstandard.ZstdCompressor().compress if suffix.endswith(".zst") else bytes
        (tmp_path / f"en-{second}{suffix}").write_bytes(pack(content))
    keys = f'paths = ["{tmp_path}/en-{{second}}{suffix}"]\nheader = false\nfields = ["1", "2"]\n'
    more = 'format = "tsv"\ndelimiter = "|"\n' if suffix == ".txt.zst" else ""
    check_pairs(build(pairs(tmp_path, keys + more)).manifest, [NO_GROUP] * COUNT)
    manifest = build(pairs(tmp_path, keys + more + 'group_fields = ["3"]'), overwrite=True).manifest
    check_pairs(manifest, [group_number(str(i)) for i in range(COUNT)])


def test_two_columns_without_a_header_need_no_names(tmp_path: Path) -> None:
    for second in SECONDS:
        lines = [f"{side('en', i)}\t{side(second, i)}" for i in range(COUNT)]
        (tmp_path / f"en-{second}.tsv").write_text("\n".join(lines))
    keys = f'paths = ["{tmp_path}/en-{{second}}.tsv"]\nheader = false'
    check_pairs(build(pairs(tmp_path, keys)).manifest, [NO_GROUP] * COUNT)


def test_documents_of_a_table_without_a_header(tmp_path: Path) -> None:
    lines = [f"id{i}\t{text('en', i, 30)}" for i in range(COUNT)]
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    head = f'[[documents]]\nlanguage = "en"\npaths = ["{tmp_path}/a.tsv"]\nheader = false\n'
    manifest = build(write_recipe(tmp_path, head + 'text_field = "1"')).manifest
    entry = manifest.entry("documents/en")
    assert (entry.documents, set(manifest.groups(entry).tolist())) == (COUNT, {NO_GROUP})
    manifest = build(write_recipe(tmp_path, head + 'text_field = "1"\nid_field = "0"'), overwrite=True).manifest
    assert manifest.groups(manifest.entry("documents/en"))[7] == group_number("id7")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_pairs_of_data_sets(tmp_path: Path, streaming: bool, nested: bool) -> None:
    for second in SECONDS:
        sides = [{"en": side("en", i), second: side(second, i)} for i in range(COUNT)]
        rows = [{"id": i, **({"translation": both} if nested else both)} for i, both in enumerate(sides)]
        made = datasets.DatasetDict(
            {"train": datasets.Dataset.from_list(rows[:3]), "all": datasets.Dataset.from_list(rows)}
        )
        made.save_to_disk(tmp_path / f"set-{second}")
    keys = f'dataset = "{tmp_path}/set-{{second}}"\nsplit = "all"\ngroup_fields = ["id"]\n'
    keys += f"streaming = {str(streaming).lower()}\n"
    keys += 'fields = ["translation.en", "translation.{second}"]\n' if nested else ""
    recipe = pairs(tmp_path, keys)
    manifest = build(recipe, ["build.unit_bytes=700"]).manifest
    check_pairs(manifest, [group_number(str(i)) for i in range(COUNT)])
    assert not build(recipe, ["build.unit_bytes=700"]).built
    datasets.Dataset.from_list(rows[:9]).save_to_disk(tmp_path / "set-de" / "train")
    with pytest.raises(RecipeError, match="another state of the source files"):
        build(recipe, ["build.unit_bytes=700"])


@pytest.mark.parametrize("saved", [True, False])
def test_documents_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"id": f"d{i}", "text": text("en", i, 25) if i != 30 else None} for i in range(120)]
    if saved:
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set").mkdir()
        (tmp_path / "set/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = write_recipe(tmp_path, f'[[documents]]\nlanguage = "en"\ndataset = "{tmp_path}/set"\n')
    manifest = build(recipe, ["build.unit_bytes=2000"]).manifest
    assert (manifest.entry("documents/en").documents, manifest.entry("documents/en").dropped) == (
        119,
        {"missing_field": 1},
    )
    (row,) = map(json.loads, (tmp_path / "out/rejected/documents/en.jsonl").read_text().splitlines())
    assert (row["file"], row["line"]) == (str(tmp_path / "set"), 31)
    assert manifest.groups(manifest.entry("documents/en"))[50] == group_number("d51")


def test_a_hub_that_cannot_be_reached_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    recipe = write_recipe(tmp_path, '[[documents]]\nlanguage = "en"\ndataset = "nobody/nothing"\nconfig = "c"\n')
    with pytest.raises(RecipeError, match=r"nobody/nothing, config 'c'.*cannot be opened(.|\n)*reach(.|\n)*next: "):
        build(recipe)


DOCUMENTS = '[[documents]]\nlanguage = "en"\n'
PAIRS = '[[pairs]]\nlanguages = ["en", "de"]\n'


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        (DOCUMENTS, "exactly one of paths .* and dataset"),
        (DOCUMENTS + 'paths = ["x"]\ndataset = "y"', "exactly one of paths .* and dataset"),
        (DOCUMENTS + 'paths = ["x"]\nsplit = "train"', "split is a key of data sets"),
        (DOCUMENTS + 'dataset = "x"\nformat = "jsonl"', "dataset has no format"),
        ('[[documents]]\nlanguages = ["en", "de"]\ndataset = "x"', "{language} in dataset, config or split"),
        ('[[pairs]]\nfirst = "en"\nseconds = ["de"]\ndataset = "x"', "{second} in dataset, config or split"),
        (PAIRS + 'paths = ["{here}/a.en"]\nformat = "moses"', "second_paths, the files of the second side"),
        (PAIRS + 'paths = ["{here}/a.en"]\nsecond_paths = ["{here}/a.de"]', "second_paths, the files of the second"),
        (PAIRS + 'paths = ["a"]\nsecond_paths = ["b"]\nformat = "moses"\nfields = ["a", "b"]', "have no fields"),
        (
            PAIRS + 'paths = ["{here}/a.en"]\nsecond_paths = ["gone"]\nformat = "moses"',
            r"pairs\[0\].second_paths: no such",
        ),
        (
            PAIRS + 'paths = ["{here}/a.tsv"]\nheader = false\nfields = ["en", "de"]',
            r"pairs\[0\]: columns without a header",
        ),
        (DOCUMENTS + 'paths = ["{here}/a.tsv"]\nheader = false', r"documents\[0\]: columns without a header"),
        (DOCUMENTS + 'paths = ["{here}/a.tsv"]\ndelimiter = "ab"', r"documents\[0\]: not a delimiter"),
        (DOCUMENTS + 'paths = ["{here}/a.tmx"]', "a translation memory holds pairs"),
        (PAIRS + 'paths = ["{here}/a.tmx", "{here}/a.tsv"]', "cannot be in one table of pairs; found tmx, tsv"),
        (PAIRS + 'paths = ["{here}/a.en", "{here}/a.tsv"]', "cannot be in one table of pairs; found text, tsv"),
        (DOCUMENTS + 'paths = ["{here}/a.en"]\nheader = false', "header is for csv and tsv; found text"),
        (PAIRS + 'paths = ["{here}/a.en"]\ndelimiter = ";"', "delimiter is for csv and tsv; found text"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path: Path, tables: str, complaint: str) -> None:
    for name in ("a.en", "a.de", "a.tsv", "a.tmx"):
        (tmp_path / name).touch()
    recipe = write_recipe(tmp_path, tables.replace("{here}", str(tmp_path)))
    with pytest.raises(RecipeError, match=complaint.replace("{", r"\{")):
        plan_shards(read_recipe(recipe, PrepRecipe), "r.toml")


@pytest.mark.parametrize(
    ("key", "library"), [('chinese_words = "jieba"', "jieba"), ('tokenise = "moses"', "sacremoses")]
)
def test_a_library_that_is_missing_is_named_before_work_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, library: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else 1)
    (tmp_path / "a.jsonl").touch()
    recipe = write_recipe(tmp_path, f'{DOCUMENTS}paths = ["{tmp_path}/a.jsonl"]\n[cleaning]\n{key}\n')
    with pytest.raises(RecipeError, match=rf"{library} is not installed(.|\n)*pip install 'mlc\[segmentation\]'"):
        build(recipe)
    assert not (tmp_path / "out").exists()


def names_of(home: Path, tables: str) -> list[str]:
    return [plan.name for plan in plan_shards(read_recipe(write_recipe(home, tables), PrepRecipe), "r.toml")]


def test_languages_are_found_in_the_names_of_files(tmp_path: Path) -> None:
    for name in ("de/a.part.jsonl", "de/b.jsonl", "pt-BR/a.jsonl", "zh_TW/deep/a.jsonl", "not a code/a.jsonl"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(json.dumps({"text": "a"}))
    of_folders = f'[[documents]]\nlanguages = ["*"]\npaths = ["{tmp_path}/corpus/{{language}}/**/*.jsonl"]\n'
    assert names_of(tmp_path, of_folders) == ["documents/de", "documents/pt-BR", "documents/zh_TW"]
    for second in ("de", "en", "sr-Latn"):
        for side_of in ("en", second):
            (tmp_path / f"OPUS.en-{second}.{side_of}").write_text("a\n")
    paths = [f"{tmp_path}/OPUS.en-{{second}}.{side_of}" for side_of in ("en", "{second}")]
    keys = f'format = "moses"\npaths = ["{paths[0]}"]\nsecond_paths = ["{paths[1]}"]\n'
    recipe = f'[[pairs]]\nfirst = "en"\nseconds = ["*"]\n{keys}'
    assert names_of(tmp_path, recipe) == ["pairs/en-de", "pairs/en-sr-Latn"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            'languages = ["*"]\npaths = ["{home}/{{language}}-*.jsonl"]',
            r"no file has a language code.*ends at / or \.",
        ),
        ('languages = ["*"]\ndataset = "x"\nsplit = "{{language}}"', "looks at names of files"),
        ('languages = ["*"]\nlanguage_field = "lang"\npaths = ["{home}/*.jsonl"]', "needs the codes to take"),
        ('languages = ["*", "de"]\npaths = ["{home}/{{language}}.jsonl"]', "is no language code"),
    ],
)
def test_languages_that_no_name_tells_are_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "en-1.jsonl").write_text(json.dumps({"text": "a"}))
    with pytest.raises(RecipeError, match=message):
        names_of(tmp_path, "[[documents]]\n" + table.format(home=tmp_path))
