"""Command lines: one parser class and one way to exit.

Flags are accepted with `-` and `_` (`--model-path`, `--model_path`), unknown flags are errors, `--help` shows defaults.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from visatb.errors import InputError, shortened

EXIT_FAILED, EXIT_INPUT = 1, 2
_PATH_AT_FAULT = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of the example in the epilog and shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser that takes every long flag in both spellings and no abbreviations."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", _HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._spelled_as_declared(given), namespace)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line."""
        self.exit(EXIT_INPUT, f"error: {shortened(message)} (see {self.prog} --help)\n")

    def _spelled_as_declared(self, given: list[str]) -> list[str]:
        declared = {flag.replace("_", "-"): flag for flag in self._option_string_actions if flag.startswith("--")}
        spelled = []
        for word in given:
            flag, equals, value = word.partition("=")
            if flag.startswith("--") and flag not in self._option_string_actions:
                flag = declared.get(flag.replace("_", "-"), flag)
            spelled.append(flag + equals + value)
        return spelled


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and end the process: 0, its own code, or 2 with one line for an `InputError`.

    Errors of the operating system are reported in one line as well: with 2 for an invalid path (missing, a folder
    instead of a file, no permission), otherwise, as for a full disk, with 1. Any other exception is a bug and keeps
    its traceback.
    """
    try:
        code = main()
    except InputError as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except OSError as error:
        message = shortened(f"{error.filename}: {error.strerror}") if error.filename else message_of(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(EXIT_INPUT if isinstance(error, _PATH_AT_FAULT) else 1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)


def message_of(error: BaseException) -> str:
    """The message of an error in one line; out of a DataLoader's worker it is the last line of a traceback."""
    if "Original Traceback" not in str(error):
        return one_line(error)
    return str(error).strip().splitlines()[-1].partition("Error: ")[2] or one_line(error)


def one_line(error: BaseException) -> str:
    """The message of an exception with its line breaks folded and long values shortened."""
    return shortened(" ".join(str(error).split())) or type(error).__name__
