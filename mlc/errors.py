"""Errors that speak to the person who has to act on them.

Every refusal says what was found, what is needed, where, and which command comes next. The exit codes are part of
the command line's contract: 1 = the work failed, 2 = bad usage or a bad recipe, 75 = saved on request, submit again.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SAVED = 75


class MlcError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        problem: one clause that says what is wrong.
        found: the offending value, shown with `repr` unless it is a string.
        needed: what would have been accepted.
        where: file and line, or the key of a recipe.
        hint: the next command or edit.
    """

    exit_code = EXIT_FAILED

    def __init__(
        self,
        problem: str,
        *,
        found: object = None,
        needed: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        parts = [f"{where}: {problem}" if where else problem]
        if found is not None:
            parts.append(f"found {found if isinstance(found, str) else repr(found)}")
        if needed is not None:
            parts.append(f"needed {needed}")
        message = "; ".join(parts)
        if hint is not None:
            message += f"\n  next: {hint}"
        super().__init__(message)
        self.problem, self.found, self.needed, self.where, self.hint = problem, found, needed, where, hint


class RecipeError(MlcError):
    """A recipe, or a file a recipe names, asks for something that cannot be."""

    exit_code = EXIT_USAGE


class UsageError(MlcError):
    """The command line asks for something that cannot be."""

    exit_code = EXIT_USAGE


class ShardError(MlcError):
    """A shard or its manifest is missing, damaged, or not what the manifest says."""

    exit_code = EXIT_USAGE


class CheckpointError(MlcError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class FencedError(MlcError):
    """A newer start of the same run owns its folder; this one may not write there any more."""


class DataError(MlcError):
    """Input text cannot be used: too many bad records, or none left."""
