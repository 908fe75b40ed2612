"""Old address of `llava.generate.work`."""

from llava.generate.work import Answer, Work, Writer  # noqa: F401
