"""Prints an answer while it is generated."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase, TextStreamer


class AnswerStreamer(TextStreamer):
    """Prints the generated text word by word, without the template's stop string, and stores it.

    Args:
        tokenizer: decodes the tokens.
        stop_strings: texts that end an answer; what comes after is not printed. TextStreamer emits text at white
            space, so a stop string is never split.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: Sequence[str] = ()):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stop_strings = tuple(stop_strings)
        self._text = ""

    @property
    def said(self) -> str:
        """The answer so far."""
        return self._answer().strip()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print what the new piece adds to the answer; a line ends the last one."""
        shown = len(self._answer())
        self._text += text
        print(self._answer()[shown:], end="\n" if stream_end else "", flush=True)

    def _answer(self) -> str:
        answer = self._text
        for stop in self.stop_strings:
            answer = answer.partition(stop)[0]
        return answer
