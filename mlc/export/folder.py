"""The folder of an export: it has its name only once it is whole and checked.

In:  OUT as the user named it.
Out: a hidden folder beside it to write into, renamed to OUT at the end; nothing where something failed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.files import sync_file, sync_folder
from mlc.tasks.locate import DESCRIPTION_FILE, EXPORT_FORMAT, read_description


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it is an export and may be replaced.

    Raises:
        UsageError: it exists and `overwrite` is False, or it is no export.
    """
    if not out.exists():
        return
    if not overwrite:
        raise UsageError("the folder exists", found=str(out), where="OUT", hint="choose another, or give --overwrite")
    try:
        description = read_description(out)
        is_export = description["format"] == EXPORT_FORMAT or "formats" in description  # the latter of a fine-tuned one
    except CheckpointError:
        is_export = False
    if not is_export:
        raise UsageError("--overwrite replaces exports only, and this is none", found=str(out), where="OUT")


@contextmanager
def checked_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`; it is synced and gets that name when the block ends without an error.

    Args:
        out: absolute; what is there is replaced (see `refuse_existing`). The block must write mlc.json.

    Raises:
        MlcError: the folder cannot be written.
    """
    partial = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _put_in_place(partial, out)
    except OSError as error:
        raise MlcError("the export cannot be written", found=str(error), where=str(out)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, out: Path) -> None:
    for path in [*partial.rglob("*"), partial]:
        if path.is_dir():
            sync_folder(path)
        else:
            shutil.copymode(partial / DESCRIPTION_FILE, path)  # safetensors makes files that only their owner can read
            sync_file(path)
    if out.exists():
        old = out.with_name(f".{out.name}.old-{uuid.uuid4().hex[:8]}")
        os.replace(out, old)
        os.replace(partial, out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(partial, out)
    sync_folder(out.parent)
