"""Old address of `llava.generate.questions`."""

from llava.generate.questions import Question, Settings, plan_batches, stop_strings, template_of  # noqa: F401
