"""Time and memory of writing the sub-datasets of a mix as large as LLaVA-1.5's (665,298 records, about 1 GB).

    python -m perf.subsets [--records 665298] [--folder FOLDER] [--forms standard simpler precise]

Draws an annotation file with the records per task, the turns and roughly the words of llava_v1_5_mix665k.json, then
runs scripts_visatb.data.subsets on it in a separate process and prints its time and memory. --files task writes one
file per task in place of one file with `task` fields.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from visatb.cli import ArgumentParser, run
from visatb.files import write_text

MIB = 2**20
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
REGION = "Please provide a short description for this region: [0.12, 0.3, 0.56, 0.78]."
# Records as counted by LLaVA's author (haotian-liu/LLaVA issue 702), image folder, question-answer pairs per record,
# words per question and per answer (so that the file is about as large as LLaVA's), response format.
SHAPE = {
    "conversation": (57_000, "coco/train2017", 4, 11, 35, ""),
    "detail": (23_700, "coco/train2017", 1, 8, 105, ""),
    "complex_reasoning": (77_012, "coco/train2017", 1, 14, 130, ""),
    "VQAv2": (91_781, "coco/train2017", 5, 6, 1, SHORT),
    "AOKVQA": (66_160, "coco/train2017", 1, 30, 1, LETTER),
    "RefCOCO": (48_447, "coco/train2017", 8, 2, 6, REGION),
    "GQA": (72_140, "gqa/images", 10, 9, 1, SHORT),
    "OCRVQA": (80_000, "ocr_vqa/images", 10, 9, 4, SHORT),
    "TextCaps": (21_953, "textvqa/train_images", 1, 30, 12, ""),
    "VG": (86_417, "vg/VG_100K", 10, 2, 6, REGION),
    "ShareGPT": (40_688, None, 5, 40, 220, ""),
}
IMAGES = 1000  # different ones per task
TOTAL = sum(shape[0] for shape in SHAPE.values())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=TOTAL, help="records to generate, in LLaVA's proportions")
    parser.add_argument("--files", choices=("one", "task"), default="one", help="one file, or one per task")
    parser.add_argument("--folder", type=Path, help="keep data and sub-datasets here; a temporary folder by default")
    parser.add_argument("--forms", nargs="+", default=["standard"], help="as in scripts_visatb.data.subsets")
    parser.add_argument("--images", action="store_true", help="also make the image files and have them checked")
    return parser.parse_args()


def records(task: str, count: int, draw: random.Random, text: list[str]) -> Iterator[dict]:
    """`count` records of a task, with random stretches of `text` for questions and answers."""
    _, folder, pairs, question_words, answer_words, form = SHAPE[task]
    for n in range(count):
        turns = []
        for pair in range(draw.randint(1, 2 * pairs - 1)):
            start = draw.randrange(len(text) - 4 * answer_words - question_words)
            question = " ".join(text[start : start + question_words]) + "?"
            answer = " ".join(text[start : start + draw.randint(1, 2 * answer_words)])
            question += form if pair == 0 or form == REGION else ""  # other formats are stated only once
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        record = {"id": f"{task}-{n:012}"}
        if folder is not None:
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
            record["image"] = f"{folder}/{task}-{draw.randrange(IMAGES):012}.jpg"
        yield record | {"task": task, "conversations": turns}


def write_data(folder: Path, total: int, per_task: bool) -> Path:
    """Write the annotation files and the benchmark file; returns the latter."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(20_000)]
    text = draw.choices(words, k=200_000)
    tasks, streams = [], {}
    for task, (share, *_) in SHAPE.items():
        file = f"{task}_train.json" if per_task else "mix_train.json"
        tasks.append({"name": task, "files": {"train": file}, "metric": "exact_match"})
        streams.setdefault(file, []).append(records(task, max(20, round(share * total / TOTAL)), draw, text))
        for split in ("val", "test"):
            tasks[-1]["files"][split] = f"{task}_{split}.json"
            held_out = list(records(task, 2000, draw, text))
            for record in held_out:  # not samples of the training data
                record["id"] = f"{split}-{record['id']}"
                record["conversations"][0]["value"] += f" ({split})"
            write_text(folder / f"{task}_{split}.json", json.dumps(held_out))
    for file, parts in streams.items():
        with open(folder / file, "w") as stream:
            stream.write("[")
            separator = ""
            while parts:  # tasks in random order, as in the shuffled mix
                part = draw.choice(parts)
                record = next(part, None)
                if record is None:
                    parts.remove(part)
                    continue
                stream.write(separator + json.dumps(record))
                separator = ", "
            stream.write("]")
    settings = {"name": "mix", "data_folder": str(folder), "image_folder": str(folder / "images"), "tasks": tasks}
    write_text(folder / "mix.yaml", json.dumps(settings | {"mini_rate": 0.03125, "large_rate": 1.0}))
    return folder / "mix.yaml"


def write_images(folder: Path) -> None:
    """Make the files that `image` fields name; the check only tests that they exist."""
    for task, (_, place, *_) in SHAPE.items():
        if place is not None:
            (folder / place).mkdir(parents=True, exist_ok=True)
            for n in range(IMAGES):
                (folder / place / f"{task}-{n:012}.jpg").touch()


def measure(benchmark: Path, output: Path, forms: list[str], images: bool) -> tuple[float, float, int]:
    """Wall-clock seconds, CPU seconds and peak resident bytes of making the sub-datasets in a separate process."""
    command = [sys.executable, "-m", "scripts_visatb.data.subsets", "--benchmark", str(benchmark)]
    command += ["--output", str(output), "--forms", *forms]
    started = time.perf_counter()
    subprocess.run(command + ([] if images else ["--skip-image-check"]), check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def main() -> None:
    """Draw, run, print."""
    args = parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        benchmark = write_data(folder, args.records, args.files == "task")
        if args.images:
            write_images(folder / "images")
        size = sum(file.stat().st_size for file in folder.glob("*_train.json"))
        print(f"training data of {size / MIB:.0f} MiB generated", flush=True)
        wall, processor, peak = measure(benchmark, folder / "subsets", args.forms, args.images)
        written = sum(file.stat().st_size for file in (folder / "subsets").glob("*.json"))
        print(f"{wall:.1f} s ({processor:.1f} s of CPU time), peak {peak / MIB:.0f} MiB resident", end=", ")
        print(f"{written / MIB:.0f} MiB written")


if __name__ == "__main__":
    run(main)
