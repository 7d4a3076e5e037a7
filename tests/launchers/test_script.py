"""Batch scripts: whatever a name, path or argument holds, bash and sbatch read it back; what they cannot is refused."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launchers.script import DIRECTIVES, SETUP, VALUES, Value, render, sbatch_path, sbatch_word, template_text
from mlc.errors import UsageError

TEMPLATE = f"#!/bin/bash\n{DIRECTIVES}\n{VALUES}\n:\n{SETUP}\n"
ODD = " '\"$`\\#%&;|<>(){}[]*?!~-=:,\n\tä日\u2028\x7fx"
"""Characters that mean something to bash, sbatch or srun, and some that only look as if."""
ANY_WORD = st.text(st.sampled_from(ODD), max_size=30) | st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20
)
ONE_LINE = ANY_WORD.filter(str.isprintable)
COMMAND = "$(touch made) `touch made`; touch made\n'\"$(touch made)\"'"


def read_back(values: Mapping[str, Value]) -> dict[str, list[str]]:
    """What bash makes of the values, and no file beside it."""
    script = render(TEMPLATE, directives=[], values=values)
    for name in values:
        script += f'printf "%s\\0" "${{#{name}[@]}}" "${{{name}[@]}}"\n'
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["bash", "-s"], input=script.encode(), capture_output=True, cwd=folder, env={"LC_ALL": "C"}, check=True
        )
        assert not done.stderr
        assert [path.name for path in Path(folder).iterdir()] == []
    words = iter(done.stdout.decode().split("\0"))
    found = {}
    for name in values:
        count = int(next(words))
        found[name] = [next(words) for _ in range(count)]
    return found


@settings(max_examples=60)
@given(st.lists(ANY_WORD, max_size=5), ANY_WORD, st.integers(0, 10**9))
@example([COMMAND, "-x", "", "--", "a'b"], COMMAND, 0)
@example(["\\", "'\\''", "$'\\n'"], "\\", 1)
def test_bash_reads_every_word_as_it_is(words: list[str], word: str, number: int) -> None:
    found = read_back({"words": words, "word": word, "number": number})
    assert found == {"words": words, "word": [word], "number": [str(number)]}


def test_a_word_that_would_be_code_is_seen_by_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shlex, "quote", lambda word: f'"{word}"')
    with pytest.raises(AssertionError, match="made"):
        read_back({"word": "$(touch made)"})


@pytest.mark.parametrize("word", ["a\0b", "\udcff"])
@pytest.mark.parametrize("in_list", [True, False])
def test_a_word_that_bash_cannot_hold_is_refused(word: str, in_list: bool) -> None:
    value: str | Sequence[str] = [word] if in_list else word
    with pytest.raises(UsageError, match="cannot hold this word"):
        render(TEMPLATE, directives=[], values={"value": value})


@given(st.text(max_size=20), st.sampled_from([chr(code) for code in (*range(32), 127, 0x85, 0x2028)]))
def test_control_characters_are_refused_for_sbatch(text: str, character: str) -> None:
    with pytest.raises(UsageError, match="one line of printable characters"):
        sbatch_word(f"{text}{character}{text}")


def read_as_sbatch(word: str) -> str:
    """An option's value as sbatch reads it: quotes group, a backslash takes the next character, a blank ends it."""
    found, quote, characters = "", "", iter(word)
    for character in characters:
        if character == "\\":
            found += next(characters)
        elif quote:
            quote, found = ("", found) if character == quote else (quote, found + character)
        elif character in "'\"":
            quote = character
        else:
            assert not character.isspace(), "the value ends here"
            found += character
    assert not quote, "the value has no end"
    return found


@given(ONE_LINE)
@example("\\")
@example('"')
@example("a # b")
def test_sbatch_reads_every_value_as_it_is(word: str) -> None:
    """`tests/slurm/test_submit_scripts.py` asks sbatch itself."""
    assert read_as_sbatch(sbatch_word(word)) == word
    line = render(TEMPLATE, directives=[("job-name", word)], values={}).split("\n")[1]
    assert line == (f"#SBATCH --job-name={sbatch_word(word)}" if word else "#SBATCH --job-name")


def test_paths_keep_their_percent_signs_and_have_no_backslash() -> None:
    assert sbatch_path(Path("/a b/100%/%j")) == "/a b/100%%/%%j"
    with pytest.raises(UsageError, match="backslash"):
        sbatch_path(Path("/a\\b"))


def test_values_that_look_like_gaps_are_words() -> None:
    words = [f"a\n{SETUP}\n{VALUES}\n{DIRECTIVES}\nb"]
    script = render(TEMPLATE, directives=[], values={"words": words}, setup="setup=code")
    assert script.count("setup=code") == 1
    assert read_back({"words": words}) == {"words": words}


def test_setup_is_code_and_comes_where_the_template_says() -> None:
    script = render(TEMPLATE, directives=[], values={"a": "1"}, setup="module() { :; }\nmodule load cuda")
    assert script.endswith("a=1\n:\nmodule() { :; }\nmodule load cuda\n")


@pytest.mark.parametrize("kind", ["train", "prep", "command"])
def test_a_template_stands_alone(kind: str, tmp_path: Path) -> None:
    text = template_text(kind)
    assert "#@include" not in text
    assert text.count("#!/bin/bash") == 1
    own = tmp_path / "own.sbatch"
    own.write_text(text)
    assert template_text("train", own) == text


def test_own_templates_are_refused_with_what_they_lack(tmp_path: Path) -> None:
    own = tmp_path / "own.sbatch"
    with pytest.raises(UsageError, match=r"cannot be read(.|\n)*mlc submit template prep"):
        template_text("prep", own)
    own.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="cannot be read"):
        template_text("train", own)
    own.write_text(f"#!/bin/bash\n{VALUES}\n")
    with pytest.raises(UsageError, match=f"no line {DIRECTIVES}"):
        template_text("train", own)
    own.write_text(f"#!/bin/bash\n{DIRECTIVES}\n{VALUES}\n#@include nothing.sh\n")
    with pytest.raises(UsageError, match=r"includes what is not there; found nothing\.sh"):
        template_text("train", own)
