"""One trial: a real command, called in this process with a mutated input, and what became of it.

A kind of mutations is a module with `trials(count, seed, folder)`; see tests/stress/mutations.py.
"""

import io
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from visatb.cli import run

REFUSED, ACCEPTED, TRACEBACK, WRONG = "refused cleanly", "accepted", "tracebacks", "wrong"
VERDICTS = (REFUSED, ACCEPTED, TRACEBACK, WRONG)
_LONGEST_LINE = 3000
# What a command prints beside its error.
_BESIDE = (
    "note: ",
    "warning: ",
    "conversation template: ",
    "judging:",
    "labelling:",
    "reading:",
    "writing:",
    "asking ",
    "questions:",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; None if an exception came through.
        out, err: what it printed.
        trace: the traceback; "" if there is none.
    """

    code: int | None
    out: str
    err: str
    trace: str = ""


@dataclass(frozen=True)
class Trial:
    """The outcome of one mutated input.

    Attributes:
        subject: the command.
        mutation: what was done to its input.
        verdict: one of VERDICTS.
        why: for TRACEBACK and WRONG what went wrong; else what the command printed.
        content: the mutated input.
    """

    subject: str
    mutation: str
    verdict: str
    why: str
    content: bytes


def call(main: Callable[[], int | None], argv: Sequence[str | Path]) -> Ended:
    """Run a command's `main` as its script does, but in this process."""
    out, err = io.StringIO(), io.StringIO()
    words = [main.__module__, *map(str, argv)]
    with mock.patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
        try:
            run(main)
        except SystemExit as end:
            return Ended(end.code if isinstance(end.code, int) else 1, out.getvalue(), err.getvalue())
        except BaseException:  # whatever comes through is what is looked for
            return Ended(None, out.getvalue(), err.getvalue(), traceback.format_exc())


def verdict(
    ended: Ended,
    must_refuse: str | None,
    must_accept: bool,
    wrong_result: Callable[[], str | None],
    outputs: Sequence[Path] = (),
    refusals: Sequence[int] = (2,),
) -> tuple[str, str]:
    """What an outcome is worth, and why.

    Args:
        ended: of the command.
        must_refuse: why the input must be refused; None if it need not.
        must_accept: whether the input means the same as the one that was not mutated.
        wrong_result: what is wrong with the result of an input that was accepted; None if nothing.
        outputs: files that a refusal must not leave.
        refusals: exit codes that a refusal may have.
    """
    if ended.code is None:
        return TRACEBACK, ended.trace
    if ended.code == 0:
        wrong = f"must be refused: {must_refuse}" if must_refuse else wrong_result()
        return (WRONG, f"accepted, but {wrong}") if wrong else (ACCEPTED, ended.out)
    errors = [line for line in ended.err.splitlines() if line and not line.startswith(_BESIDE)]
    left = [path.name for path in outputs if path.exists()]
    if ended.code not in refusals:
        return WRONG, f"exit code {ended.code}: {ended.err[-500:]}"
    if must_accept:
        return WRONG, f"refused, but it means the same as the original: {ended.err[-500:]}"
    if len(errors) != 1 or not errors[0].startswith("error: ") or len(errors[0]) > _LONGEST_LINE:
        return WRONG, f"a refusal must be one line of bearable length: {ended.err[:500]!r}"
    if left:
        return WRONG, f"a refusal leaves {', '.join(left)}"
    return REFUSED, errors[0]
