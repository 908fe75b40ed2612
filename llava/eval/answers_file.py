"""Old address of `llava.generate.answers`."""

from llava.generate.answers import AnswerFile, Asked, llava_answer_file
from llava.generate.command import answer_command, answer_parser
from llava.generate.shard import get_chunk

__all__ = ["AnswerFile", "Asked", "answer_command", "answer_parser", "get_chunk", "llava_answer_file"]
