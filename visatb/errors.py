"""The one exception for mistakes in what the user gave."""


class InputError(ValueError):
    """A mistake in a file, flag or setting of the user's.

    Its message is one line that names the file, record and field and says what to do. Commands print it and end with
    exit code 2 (see `visatb.cli.run`).
    """
