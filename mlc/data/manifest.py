"""`manifest.json`: what a folder of shards holds, and the hashes that prove it.

In:  the folder `mlc prep build` wrote (or one described by hand around Megatron's files).
Out: a `Manifest`: its shards opened, group numbers, cheap checks of sizes at training start.

What a build tells about itself but must not change its bytes (seconds, version, state of the source files) is in
`build.json` beside it, so that the same corpus and recipe give the same `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import pydantic
import xxhash
from numpy.typing import NDArray

from mlc.data.indexed import IndexedShard
from mlc.errors import ShardError
from mlc.files import write_atomically

MANIFEST_NAME = "manifest.json"
BUILD_NAME = "build.json"
FORMAT = "mlc-shards"
FORMAT_VERSION = 1
NO_GROUP = -1
_MOST = (1 << 31) - 1  # ids that int32 tokens can hold
_MOST_COUNTED = 1 << 59  # of anything: 8 bytes for each still have an int64 size

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[sMASK]", "[gMASK]", "[sop]", "[eop]", "[MLM]")
"""In every tokenizer we train, the place of a name in this tuple is its id; in others, see `special_ids`."""

TokenizerKind = Literal["sentencepiece", "hugging_face"]
TOKENIZER_NAMES: dict[TokenizerKind, str] = {"sentencepiece": "tokenizer.model", "hugging_face": "tokenizer.json"}
"""What the file that makes the ids is called, in shards that we build and in model folders."""


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer the shards were made with.

    Attributes:
        file: what makes the ids, relative to the manifest's folder.
        sha256: of that file.
        vocab_size: ids are 0 .. vocab_size-1; at least the tokenizer's pieces and the special tokens.
        special_ids: id of each of `SPECIAL_TOKENS`.
        kind: a SentencePiece model, or a tokenizer.json of Hugging Face's tokenizers.
        other_files: {path relative to the manifest's folder: sha256} of what else belongs to it.
    """

    file: str
    sha256: str
    vocab_size: int
    special_ids: dict[str, int]
    kind: TokenizerKind = "sentencepiece"
    other_files: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        """{path relative to the manifest's folder: sha256} of all its files, the one that makes the ids first."""
        return {self.file: self.sha256, **self.other_files}

    @property
    def digest(self) -> str:
        """Of all its files; of a single one, its sha256."""
        if not self.other_files:
            return self.sha256
        return hashlib.sha256(json.dumps([self.sha256, *sorted(self.other_files.values())]).encode()).hexdigest()


@dataclass(frozen=True)
class ShardEntry:
    """One shard: the documents of a language, or the sentence pairs of two.

    Attributes:
        name: "documents/en" or "pairs/en-de".
        languages: ("en",) or ("en", "de").
        prefixes: of the indexed files, relative to the manifest's folder, in the order of `languages`.
        documents, sequences, tokens: totals; of pairs, documents and sequences count pairs, tokens both sides.
        text_bytes: UTF-8 bytes of the text the tokens stand for; 0 where it is not known.
        files: {path relative to the manifest's folder: {"bytes": int, "sha256": str}}.
        sources: the files that were read, as the recipe names them.
        dropped: {reason: records set aside}.
    """

    name: str
    kind: Literal["documents", "pairs"]
    languages: tuple[str, ...]
    prefixes: tuple[str, ...]
    documents: int
    sequences: int
    tokens: int
    files: dict[str, dict[str, Any]]
    sources: tuple[str, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    text_bytes: int = 0

    @property
    def groups_file(self) -> str:
        """The group numbers, int64 [documents] as .npy, relative to the manifest's folder."""
        return f"{self.name}.groups.npy"


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json` and the folder it lies in.

    Attributes:
        recipe_sha256: digest of everything in the recipe that decides about bytes.
        created_by: name and version of the program.
        timing: seconds and rates of the build.
        sources_digest: digest of names, sizes and times of the files read; tells whether a build is up to date.

    `created_by`, `timing` and `sources_digest` live in `build.json` and are no part of `sha256`.
    """

    folder: Path
    tokenizer: TokenizerInfo
    shards: tuple[ShardEntry, ...]
    recipe_sha256: str = ""
    version: int = FORMAT_VERSION
    created_by: str = ""
    timing: dict[str, float] = field(default_factory=dict)
    sources_digest: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON: equal for every build of one recipe from files under the same paths.

        Neither the output folder nor the time counts; paths do, in `ShardEntry.sources` and in `recipe_sha256`.
        """
        return _sha256_of(self._content())

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read `<folder>/manifest.json`.

        Raises:
            ShardError: missing, of a newer version, or damaged.
        """
        folder = Path(folder)
        path = folder / MANIFEST_NAME
        content = _read_json(path)
        if content.get("format") != FORMAT:
            raise ShardError("this is no manifest of shards", needed=f'"format": "{FORMAT}"', where=str(path))
        version = content.get("version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ShardError(
                "the manifest was written by a newer version",
                found=version,
                needed=f"<= {FORMAT_VERSION}",
                where=str(path),
                hint="upgrade mlc, or build the shards again",
            )
        stated, found = content.pop("sha256", None), _sha256_of_file(content, path)
        build = _read_json(folder / BUILD_NAME) if (folder / BUILD_NAME).exists() else {}
        shards, timing = content.get("shards"), build.get("timing", {})
        if not isinstance(shards, list):
            raise ShardError(
                "the manifest is damaged", found=f"shards = {shards!r:.80}", needed="a list", where=str(path)
            )
        manifest = cls(
            folder=folder,
            tokenizer=_parse(content.get("tokenizer"), TokenizerInfo, _TOKENIZER, path),
            shards=tuple(_parse(entry, ShardEntry, _SHARD, path) for entry in shards),
            recipe_sha256=str(content.get("recipe_sha256", "")),
            version=version,
            created_by=str(build.get("created_by", "")),
            timing=timing if isinstance(timing, dict) else {},
            sources_digest=str(build.get("sources_digest", "")),
        )
        manifest._check_content()
        if stated is not None and stated != found:  # of the file: an older one may lack keys that have a default
            raise ShardError("the manifest was changed or damaged", found=found, needed=stated, where=str(path))
        return manifest

    def write(self, folder: str | Path) -> None:
        """Write `build.json`, then `manifest.json`, each whole or not at all."""
        folder = Path(folder)
        build = {"created_by": self.created_by, "timing": self.timing, "sources_digest": self.sources_digest}
        write_atomically(folder / BUILD_NAME, _pretty(build))
        write_atomically(folder / MANIFEST_NAME, _pretty({**self._content(), "sha256": self.sha256}))

    def entry(self, name: str) -> ShardEntry:
        """The shard of that name.

        Raises:
            ShardError: there is none.
        """
        for entry in self.shards:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.shards)
        raise ShardError("no such shard", found=name, needed=f"one of {names}", where=str(self.folder / MANIFEST_NAME))

    def open(self, entry: ShardEntry) -> list[IndexedShard]:
        """Map a shard's files: one `IndexedShard` for documents, two for pairs.

        Raises:
            ShardError: a file is missing or differs from the manifest in size or counts.
        """
        self.check([entry])
        shards = [IndexedShard(self.folder / prefix) for prefix in entry.prefixes]
        for shard in shards:
            if (shard.num_documents, shard.num_sequences) != (entry.documents, entry.sequences):
                raise ShardError(
                    "the shard has other counts than the manifest says",
                    found=f"{shard.num_documents} documents, {shard.num_sequences} sequences",
                    needed=f"{entry.documents} documents, {entry.sequences} sequences",
                    where=str(shard.prefix),
                    hint=f"mlc prep verify {self.folder}",
                )
        return shards

    def groups(self, entry: ShardEntry) -> NDArray[np.int64]:
        """int64 [documents]: group number of each document (or pair), -1 where it has none.

        Raises:
            ShardError: the file is damaged. A shard whose manifest lists no such file has no groups.
        """
        if entry.groups_file not in entry.files:
            return np.broadcast_to(np.int64(NO_GROUP), (entry.documents,))
        path = self.folder / entry.groups_file
        try:
            groups: NDArray[np.int64] = _load_npy(path)
        except Exception as error:  # numpy's parser of the header raises many kinds
            raise ShardError("the group numbers cannot be read", found=str(error), where=str(path)) from None
        if groups.dtype != np.int64 or groups.shape != (entry.documents,):
            raise ShardError(
                "these are no group numbers of this shard",
                found=f"{groups.dtype} {groups.shape}",
                needed=f"int64 ({entry.documents},)",
                where=str(path),
            )
        return groups

    def tokenizer_files(self) -> dict[str, Path]:
        """{name in a model folder: path} of the tokenizer's files, the one that makes the ids first."""
        first, *others = self.tokenizer.files
        named = {TOKENIZER_NAMES[self.tokenizer.kind]: self.folder / first}
        return named | {Path(name).name: self.folder / name for name in others}

    def check(self, entries: Iterable[ShardEntry] | None = None) -> None:
        """Compare the sizes of the files with the manifest; `mlc prep verify` compares the hashes too.

        Args:
            entries: shards to look at; None = all, and the hashes of the tokenizer, which every checkpoint relies on.

        Raises:
            ShardError: a file is missing or has another size, or the tokenizer is another one.
        """
        if entries is None:
            self._check_tokenizer()
        for entry in self.shards if entries is None else entries:
            for name, stated in entry.files.items():
                path = self.folder / name
                size = path.stat().st_size if path.is_file() else None
                if size != stated["bytes"]:
                    raise ShardError(
                        "a file of the shards is missing or has another size",
                        found="no such file" if size is None else f"{size} bytes",
                        needed=f"{stated['bytes']} bytes",
                        where=str(path),
                        hint=f"mlc prep verify {self.folder}",
                    )

    def _check_content(self) -> None:
        """Refuse what no build can have written, so that the rest of the code may rely on it."""
        problems = [] if 0 < self.tokenizer.vocab_size <= _MOST else [f"vocab_size = {self.tokenizer.vocab_size}"]
        names = list(self.tokenizer.files)
        for entry in self.shards:
            sides = 1 if entry.kind == "documents" else 2
            if (len(entry.languages), len(set(entry.prefixes)), len(entry.prefixes)) != (sides, sides, sides):
                problems.append(f"{entry.kind} with {len(entry.languages)} languages, {len(entry.prefixes)} prefixes")
            counts = (entry.documents, entry.sequences, entry.tokens, entry.text_bytes)
            if not all(0 <= count <= _MOST_COUNTED for count in counts):
                problems.append(f"counts {counts} of {entry.name}")
            problems += [
                f"files[{name}] = {facts!r:.80}" for name, facts in entry.files.items() if not _are_facts(facts)
            ]
            names += [entry.name, *entry.prefixes, *entry.files]
        problems += [f"the name {name!r:.80}" for name in names if not _is_name(name)]
        if problems:
            raise ShardError("the manifest is damaged", found=problems[0], where=str(self.folder / MANIFEST_NAME))

    def _check_tokenizer(self) -> None:
        for name, sha256 in self.tokenizer.files.items():
            path = self.folder / name
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
            if found != sha256:
                raise ShardError(
                    "the shards' tokenizer is missing or another one",
                    found="no such file" if found is None else f"sha256 {found[:12]}",
                    needed=f"sha256 {sha256[:12]}",
                    where=str(path),
                    hint="copy it from where the shards were built, or build them again",
                )

    def _content(self) -> dict[str, Any]:
        tokenizer = asdict(self.tokenizer)
        if not self.tokenizer.other_files:  # manifests from before there were any keep their hash
            del tokenizer["other_files"]
        return {
            "format": FORMAT,
            "version": self.version,
            "tokenizer": tokenizer,
            "shards": [asdict(entry) for entry in self.shards],
            "recipe_sha256": self.recipe_sha256,
        }


def group_number(*key: str) -> int:
    """The group of a key: the first 63 bits of its xxh3_64, so no pass over other languages is needed to agree on it.

    Args:
        key: one string (hashed as it is) or several (hashed as a JSON list, so that no two keys run together).
    """
    text = key[0] if len(key) == 1 else json.dumps(key, ensure_ascii=False)
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) >> 1


Parsed = TypeVar("Parsed", TokenizerInfo, ShardEntry)

_TOKENIZER = pydantic.TypeAdapter(TokenizerInfo)  # kept: it takes longer to make one than to use it on many shards
_SHARD = pydantic.TypeAdapter(ShardEntry)


def _parse(value: Any, kind: type[Parsed], adapter: pydantic.TypeAdapter[Parsed], path: Path) -> Parsed:
    unknown = set(value) - {item.name for item in fields(kind)} if isinstance(value, Mapping) else set()
    try:
        if unknown:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        return adapter.validate_python(value)
    except ValueError as error:  # pydantic's ValidationError is one
        raise ShardError("the manifest is damaged", found=str(error), where=str(path)) from None


def _sha256_of(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _sha256_of_file(content: Mapping[str, Any], path: Path) -> str:
    try:
        return _sha256_of(content)
    except RecursionError as error:  # deep lists that could just be read
        raise ShardError("the file cannot be read", found=str(error), where=str(path)) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(
            "no finished shards here",
            found=f"no {path.name}",
            where=str(path.parent),
            hint="mlc prep build RECIPE.toml",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError("the file cannot be read", found=str(error), where=str(path)) from None
    if not isinstance(content, dict):
        raise ShardError("the file holds no JSON object", where=str(path))
    return content


def _are_facts(facts: Mapping[str, Any]) -> bool:
    size, sha256 = facts.get("bytes"), facts.get("sha256")
    return type(size) is int and size >= 0 and isinstance(sha256, str)


def _is_name(name: str) -> bool:
    """Whether a file can have that name, with a suffix behind it."""
    return bool(Path(name).name) and "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _load_npy(path: Path) -> NDArray[Any]:
    """An array from a .npy file; a file whose header asks for another size than it has is refused unread."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format than 1.0")
        with warnings.catch_warnings(action="error"):  # of a header that is not quite in order
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if len(shape) != 1 or dtype.hasobject or file.tell() + shape[0] * dtype.itemsize != path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes for {dtype} {shape}")
        return np.fromfile(file, dtype, shape[0])


def _pretty(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode(errors="surrogatepass")
