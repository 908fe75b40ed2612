"""Old address of `llava.generate.llava_engine`."""

from llava.generate.llava_engine import DTYPES
from llava.generate.llava_engine import LlavaEngine as Answerer
from llava.generate.llava_model import default_device, dtype_of
from llava.generate.loop import answer_all
from llava.generate.questions import Question, Settings

__all__ = ["DTYPES", "Answerer", "Question", "Settings", "answer_all", "default_device", "dtype_of"]
