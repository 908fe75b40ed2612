"""Makes what demo_hf.yaml needs: pictures, annotation files, and a tiny LLaVA of transformers 5 with random weights.

    .venv-hf/bin/python -m scripts_visatb.demo.current_model --benchmark scripts_visatb/benchmarks/demo_hf.yaml

Each picture is a square of some colour and size on a dark ground. The model is small enough to learn from nothing what
colour a square is and whether it is small, in a few dozen steps. Runs in the environment of requirements-hf.txt.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from scripts_visatb.demo.drawing import COLORS
from visatb.benchmark import Benchmark, load_benchmark
from visatb.cli import ArgumentParser, run
from visatb.files import scratch_folder, write_json
from visatb.records import Record

SIDE, PATCH = 28, 7
SIZES = {"small": 8, "large": 18}
COUNTS = {"train": 120, "val": 80, "test": 80}
QUESTIONS = {"Colour": "What color is the square?", "Size": "Is the square small or large?"}
CHAT = {"Hello!": "Good morning!", "How are you?": "Very well.", "Say a number.": "Seven."}
SPECIAL_TOKENS = ("<|end|>", "<|user|>", "<|assistant|>", "<image>")
TEMPLATE = """\
{% for message in messages %}<|{{ message['role'] }}|>{% if message['content'] is string %}{{ message['content'] }}\
{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}\
{% endif %}{% endfor %}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
_DARK = (12, 12, 18)


def make_records(task: str, split: str, seed: int, images: Path) -> Iterator[Record]:
    """Draw the pictures of a task's split and yield its records."""
    for n in range(COUNTS[split]):
        draw = random.Random(f"{seed}/{task}/{split}/{n}")
        record = {"id": f"{task}-{split}-{n:04d}", "task": task}
        if task == "Chat":
            question, answer = draw.choice(list(CHAT.items()))
        else:
            color, size = draw.choice(list(COLORS)), draw.choice(list(SIZES))
            record["image"] = f"{task}/{split}/{n:04d}.png"
            draw_square(images / record["image"], color, size, draw)
            question, answer = f"<image>\n{QUESTIONS[task]}", color if task == "Colour" else size
        yield record | {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def draw_square(path: Path, color: str, size: str, draw: random.Random) -> None:
    """Write a picture of a square somewhere on a dark ground."""
    picture, side = Image.new("RGB", (SIDE, SIDE), _DARK), SIZES[size]
    picture.paste(COLORS[color], [(left := draw.randrange(SIDE - side)), (top := draw.randrange(SIDE - side)),
                                  left + side, top + side])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def make_tokenizer():  # noqa: ANN201 - transformers is imported when it is called
    """A byte-level BPE tokenizer whose words are those of the tasks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([*COLORS, *SIZES, *QUESTIONS.values(), *CHAT, *CHAT.values()], trainer)
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[0])


def save_model(folder: Path, seed: int) -> None:
    """Write the model, with random weights, and its processor."""
    import torch
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    crop = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop),
        make_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    tokenizer = processor.tokenizer
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(seed)
    config = LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 128,
            "hidden_size": 64,
            "intermediate_size": 128,
            **shape,
            **ids,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_size": 48,
            "intermediate_size": 96,
            **shape,
        },
        image_token_index=processor.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
        **ids,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def build(benchmark: Benchmark, output: Path, seed: int) -> None:
    """Make everything in `output`; a finished one is not made again."""
    if output.is_dir():
        print(f"{output}: is there; nothing to do.")
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(output.parent, f".{output.name}.") as scratch:
        made = scratch / "made"
        for task in benchmark.tasks:
            for split, name in task.files.items():
                write_json(made / "data" / name, list(make_records(task.name, split, seed, made / "images")))
        save_model(made / "model", seed)
        made.rename(output)


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--benchmark", required=True, help="benchmark YAML (scripts_visatb/benchmarks/demo_hf.yaml)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and base model")
    args = parser.parse_args()
    benchmark = load_benchmark(args.benchmark)
    build(benchmark, Path(benchmark.data_folder).parent, args.seed)


if __name__ == "__main__":
    run(main)
