"""The demo's tokenizer: SentencePiece BPE with LLaMA's settings, saved in LlamaTokenizer's files."""

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

VOCABULARY = 640


def train_tokenizer(texts: Iterable[str], folder: Path, vocabulary: int = VOCABULARY) -> None:
    """Train the tokenizer and save it as `LlamaTokenizer.save_pretrained` does.

    LLaMA's settings: byte fallback (a line break is a byte piece), split digits, no normalisation, a
    space put before it, ids 0, 1, 2 for <unk>, <s>, </s>, no padding token.

    Args:
        texts: training text.
        folder: where the files go.
        vocabulary: number of pieces, 259 of which are bytes and control pieces.
    """
    import sentencepiece
    from transformers import LlamaTokenizer

    model = io.BytesIO()
    # A colon stands for the line break, which must stay out of the alphabet: pieces never join letters and
    # punctuation, so a word that opens a line is learned as it will occur, without a space before it.
    lines = (text.replace("\n", ":") for text in texts)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokenizer.model"
        file.write_bytes(model.getvalue())
        LlamaTokenizer(str(file), legacy=True, clean_up_tokenization_spaces=False).save_pretrained(folder)
