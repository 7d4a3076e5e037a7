"""What each format makes of good and of bad records: a record, or a reason; never an exception."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.readers import KEPT_CHARACTERS, Record, Rejected, SourceFormat, plan_ranges, read_range
from mlc.data.manifest import NO_GROUP, group_number
from mlc.errors import DataError


def read(path: Path, source: SourceFormat) -> list[Record | Rejected]:
    return [record for r in plan_ranges(path, source, 1 << 30) for record in read_range(path, r, source)]


def reasons(records: list[Record | Rejected]) -> list[tuple[int, str]]:
    return [(record.line, record.reason if isinstance(record, Rejected) else "") for record in records]


def test_text_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n \r\n\r\nthree \xe4\n\n\u3000\n".encode() + b"\n\xff\xfe\nx\n")
    found = read(path, SourceFormat())
    assert found[:2] == [Record(("one\ntwo",), NO_GROUP, 1), Record(("three \xe4",), NO_GROUP, 5)]
    assert reasons(found[2:]) == [(7, "empty"), (9, "undecodable")]
    assert isinstance(found[3], Rejected)
    assert found[3].beginning == "\ufffd\ufffd\nx"
    lines = read(path, SourceFormat(separator="line"))
    assert reasons(lines) == [(1, ""), (2, ""), (5, ""), (7, "empty"), (9, "undecodable"), (10, "")]


BAD_JSON = {
    b'{"text": "\xff"}': "undecodable",
    b'{"text": "x"': "broken_json",
    b"[" * 100_000: "broken_json",
    b'{"text": "a\x01"}': "broken_json",
    b"[]": "not_an_object",
    b"3": "not_an_object",
    b'"text"': "not_an_object",
    b"NaN": "not_an_object",
    b"{}": "missing_field",
    b'{"text": null}': "missing_field",
    b'{"text": 3}': "wrong_type",
    b'{"text": ["a"]}': "wrong_type",
    b'{"text": "a", "id": 1.5}': "wrong_type",
    b'{"text": "a", "id": true}': "wrong_type",
    b'{"text": "a", "id": {}}': "wrong_type",
    b'{"text": ""}': "empty",
    b'{"text": " \\u3000\\n"}': "empty",
}


@pytest.mark.parametrize(("content", "reason"), BAD_JSON.items(), ids=range(len(BAD_JSON)))
def test_json_that_is_set_aside(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "ok"}\n' + content + b'\r\n{"text": "ok"}')
    found = read(path, SourceFormat(group_fields=("id",)))
    assert reasons(found) == [(2, ""), (3, reason), (4, "")]
    assert isinstance(found[1], Rejected)
    assert found[1].beginning == content.decode(errors="replace")[:KEPT_CHARACTERS]


def test_json_that_only_the_exact_parser_takes(tmp_path: Path) -> None:
    """orjson refuses the first three, and makes a float of an integer beyond 64 bits."""
    path = tmp_path / "a.jsonl"
    big = 123456789012345678901234567890
    rows = [
        '{"text": "a", "x": NaN}',
        '{"text": "\\ud800"}',
        '{"text": "c", "x": 1e999}',
        f'{{"text": "d", "id": {big}}}',
    ]
    path.write_text("\n".join(rows))
    found = read(path, SourceFormat(group_fields=("id",)))
    assert [record.texts for record in found if isinstance(record, Record)] == [("a",), ("\ud800",), ("c",), ("d",)]
    assert isinstance(found[3], Record)
    assert found[3].group == group_number(str(big))


def test_keys_groups_languages_and_nested_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"t": {"en": "a", "de": "b"}, "s": "x", "id": 7, "lang": "en"},
        {"t": {"en": "a", "de": "b"}, "s": "x", "lang": "en"},
        {"t": {"en": "a", "de": "b"}, "s": "x", "id": "", "lang": "en"},
        {"t": {"en": "a"}, "s": "x", "id": 7, "lang": "en"},
        {"t": "a", "s": "x", "id": 7, "lang": "en"},
        {"t.en": "A", "t": {"de": "b"}, "id": 7, "s": "x", "lang": "de"},
        {"t": {"en": "a", "de": "b"}, "s": "x", "id": 7},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    source = SourceFormat("jsonl", ("t.en", "t.de"), ("s", "id"), language_field="lang")
    group = group_number("x", "7")
    assert read(path, source)[:3] == [
        Record(("a", "b"), group, 1, "en"),
        Record(("a", "b"), NO_GROUP, 2, "en"),
        Record(("a", "b"), NO_GROUP, 3, "en"),
    ]
    assert reasons(read(path, source)[3:]) == [
        (4, "missing_field"),
        (5, "missing_field"),
        (6, ""),
        (7, "missing_field"),
    ]
    required = read(path, replace(source, group_required=True))
    assert reasons(required)[:3] == [(1, ""), (2, "missing_field"), (3, "missing_field")]


@settings(max_examples=300)
@given(value=st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "id"]), inner, max_size=2),
    max_leaves=6,
))  # fmt: skip
def test_json_is_what_the_standard_parser_makes_of_it(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    line = json.dumps(value)
    path.write_text(line)
    (found,) = read(path, SourceFormat(group_fields=("id",)))
    row = json.loads(line)
    text, key = (row.get("text"), row.get("id")) if isinstance(row, dict) else (None, None)
    usable = isinstance(text, str) and text.strip() and (key is None or type(key) in (str, int))
    assert isinstance(found, Record) == bool(usable)
    if isinstance(found, Record):
        assert found.texts == (text,)
        assert found.group == (NO_GROUP if key in (None, "") else group_number(str(key)))


CELLS = st.text(st.sampled_from('ab"," \n\tä中'), max_size=5)


@settings(max_examples=300)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6), end=st.sampled_from(["\n", "\r\n"]), every=st.booleans()
)
def test_quoted_tables_are_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], end: str, every: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.csv"
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator=end, quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL)
    writer.writerows([("id", "x", "text"), *rows])
    path.write_bytes(written.getvalue().encode())
    found = read(path, SourceFormat(text_fields=("text", "x")))
    assert [record.texts if isinstance(record, Record) else record.reason for record in found] == [
        (text, x) if text.strip() and x.strip() else "empty" for _, x, text in rows
    ]


def test_tables_with_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(
        b'\xef\xbb\xbfid\ttext\tlang\r\n1\ta "q\ten\r\n\r\n2\tb\n3\tc\tde\tx\n4\t\xff\ten\n5\t \ten\n6\td\t\n\te\ten'
    )
    source = SourceFormat(text_fields=("text",), group_fields=("id",), language_field="lang")
    found = read(path, source)
    assert found[0] == Record(('a "q',), group_number("1"), 2, "en")
    assert reasons(found[1:]) == [(4, "wrong_columns"), (5, "wrong_columns"), (6, "undecodable"), (7, "empty"),
                                  (8, "missing_field"), (9, "")]  # fmt: skip
    assert isinstance(found[1], Rejected)
    assert found[1].beginning == "2\tb"
    numbered = read(path, SourceFormat("tsv", text_fields=("1", "2"), header=False))
    assert reasons(numbered) == [(1, ""), (2, ""), (4, "wrong_columns"), (5, ""), (6, "undecodable"), (7, "empty"),
                                 (8, "empty"), (9, "")]  # fmt: skip
    assert {reason for _, reason in reasons(read(path, replace(source, text_fields=("body",))))} >= {"missing_field"}


@pytest.mark.parametrize(
    ("header", "reason"), [(b"text,text", "wrong_columns"), (b"\xff,text", "undecodable"), (b"", "wrong_columns")]
)
def test_tables_with_bad_headers(tmp_path: Path, header: bytes, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(header + b"\na,b\nc,d\n")
    assert reasons(read(path, SourceFormat())) == [(2, reason), (3, reason)]


def test_a_quote_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\na\n"b\nc\nd\n')
    found = read(path, SourceFormat())
    assert reasons(found) == [(2, ""), (3, "broken_csv")]
    path.write_text('text\n"' + "x" * 30 + '\n"",' + "y" * 30 + '"\nc\n"' + "z\n" * 50 + '"\nd\n' + "w" * 70 + "\ne\n")
    found = read(path, SourceFormat(max_line_bytes=60))
    assert reasons(found) == [(2, "too_long"), (4, ""), (5, "too_long"), (56, ""), (57, "too_long"), (58, "")]


def moses(folder: Path, first: bytes, second: bytes, **changes: object) -> list[Record | Rejected]:
    (folder / "a.en").write_bytes(first)
    (folder / "a.de").write_bytes(second)
    return read(folder / "a.en", SourceFormat("moses", second_path=str(folder / "a.de"), **changes))  # type: ignore[arg-type]


def test_line_aligned_files(tmp_path: Path) -> None:
    found = moses(
        tmp_path, b"\xef\xbb\xbfa\r\nb\n\nd\n\xff\n" + b"x" * 20 + b"\n", b"A\nB\r\nC\nD\nE\nF", max_line_bytes=10
    )
    assert found[:2] == [Record(("a", "A"), NO_GROUP, 1), Record(("b", "B"), NO_GROUP, 2)]
    assert reasons(found[2:]) == [(3, "empty"), (4, ""), (5, "undecodable"), (6, "too_long")]
    assert isinstance(found[2], Rejected)
    assert found[2].beginning == " | C"


@pytest.mark.parametrize("longer", [0, 1])
def test_line_aligned_files_of_different_length(tmp_path: Path, longer: int) -> None:
    sides = [b"a\nb\n", b"a\nb\n"]
    sides[longer] += b"c\nd\ne\n"
    numbers = ["2 in .*a.en, 5 in .*a.de", "5 in .*a.en, 2 in .*a.de"][1 - longer]
    with pytest.raises(DataError, match=f"different numbers of lines; found {numbers}"):
        moses(tmp_path, *sides)
    sides[longer] = b"a\nb\n\n \n"  # there is nothing in the lines beyond
    assert reasons(moses(tmp_path, *sides)) == [(1, ""), (2, "")]
    source = SourceFormat("moses", second_path=str(tmp_path / "a.de"))
    (file_range,) = plan_ranges(tmp_path / "a.en", source, 1)
    assert file_range.bytes == sum(map(len, sides))
    consumed: list[int] = []
    reader = read_range(tmp_path / "a.en", file_range, source, consumed.append)
    assert len(list(reader)) == 2
    assert (reader.lines, sum(consumed)) == (4, file_range.bytes)
    (tmp_path / "a.de").unlink()
    with pytest.raises(DataError, match="No such file"):
        list(read_range(tmp_path / "a.en", file_range, source))


TMX = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd" [<!ENTITY bomb "&bomb;&bomb;"><!ENTITY file SYSTEM "/etc/hostname">]>
<tmx version="1.4"><header srclang="en"/><body>
<!-- <tu><tuv xml:lang="en"><seg>not this</seg></tuv><tuv xml:lang="de"><seg>x</seg></tuv></tu> -->
<tu tuid="1"><tuv xml:lang="EN"><seg>a &amp; <bpt i="1">&lt;b&gt;</bpt>b\xe4<ept i="1">x</ept> <hi>c</hi></seg></tuv><tuv xml:lang="de-AT"><seg>A</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg><![CDATA[</tu><tu>]]></seg></tuv><tuv lang="de"><seg>B<!-- </tu> --></seg></tuv></tu >
<tu><tuv xml:lang="en"><seg>c</seg></tuv><tuv xml:lang="fr"><seg>C</seg></tuv></tu>
<tu/><tu tuid="5"><tuv xml:lang="en"><seg>&bomb;</seg></tuv><tuv xml:lang="de"><seg>E</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>&file;</seg></tuv><tuv xml:lang="de"><seg>E</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>f & g</seg></tuv><tuv xml:lang="de"><seg>F</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg> </seg></tuv><tuv xml:lang="de"><seg>H</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>not closed</seg></tuv>
<tu><tuv xml:lang="en"><seg>{long}</seg></tuv><tuv xml:lang="de"><seg>J</seg></tuv></tu>
<tu><tuv xml:lang="de"><seg>L</seg></tuv><tuv xml:lang="en-GB"><seg>l?</seg></tuv><tuv xml:lang="en"><seg>l</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>{deep}</seg></tuv><tuv xml:lang="de"><seg>M</seg></tuv></tu>
</body></tmx>"""  # noqa: E501


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16", "ISO-8859-1"])
def test_translation_memories(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.tmx"
    deep = "<hi>" * 2000 + "m" + "</hi>" * 2000
    path.write_bytes(TMX.format(encoding=encoding, long="x" * 30_000, deep=deep).encode(encoding))
    source = SourceFormat("tmx", group_fields=("tuid",), languages=("en", "de"), max_line_bytes=25_000)
    found = read(path, source)
    assert found[:2] == [
        Record(("a & b\xe4 c", "A"), group_number("1"), 1),
        Record(("</tu><tu>", "B"), NO_GROUP, 2),
    ]
    assert reasons(found[2:]) == [
        (3, "missing_language"), (4, "missing_language"), (5, "broken_xml"), (6, "broken_xml"), (7, "broken_xml"),
        (8, "empty"), (9, "broken_xml"), (10, "too_long"), (11, ""), (12, ""),
    ]  # fmt: skip
    assert found[10:] == [Record(("l", "L"), NO_GROUP, 11), Record(("m", "M"), NO_GROUP, 12)]


def test_translation_memories_that_end_early_or_lie_about_themselves(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    source = SourceFormat("tmx", languages=("en", "de"))
    unit = '<tu><tuv xml:lang="en"><seg>a\xe4</seg></tuv><tuv xml:lang="de"><seg>A</seg></tuv></tu>'
    path.write_bytes(f"<tmx><body>{unit}{unit}".encode()[:-9])
    assert reasons(read(path, source)) == [(1, ""), (2, "broken_xml")]
    path.write_bytes(f"<tmx><body>{unit}".encode("latin-1"))
    assert reasons(read(path, source)) == [(1, "undecodable")]
    path.write_bytes(f"<tmx><body>{unit}".encode("utf-16")[:-40] + b"\x00\xd8" + f"{unit}{unit}".encode("utf-16-le"))
    assert reasons(read(path, source)) == [(1, "undecodable"), (2, ""), (3, "")]
    path.write_text(f'<?xml version="1.0" encoding="klingon"?><tmx><body>{unit}')
    with pytest.raises(DataError, match="klingon"):
        read(path, source)


@settings(max_examples=60)
@given(chunk_bytes=st.integers(1, 300))
def test_translation_memories_in_chunks_of_any_size(chunk_bytes: int) -> None:
    from data_prep.readers.lines import LineCount
    from data_prep.readers.tmx import tmx_records

    content = TMX.format(encoding="UTF-8", long="x" * 300, deep="m").encode()
    source = SourceFormat("tmx", languages=("en", "de"), max_line_bytes=250)
    chunks = [content[i : i + chunk_bytes] for i in range(0, len(content), chunk_bytes)]
    assert list(tmx_records(chunks, source, LineCount())) == list(tmx_records([content], source, LineCount()))
