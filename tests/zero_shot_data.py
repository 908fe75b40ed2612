"""Every zero-shot benchmark with a few questions, in the official file formats and LLaVA's layout.

    data = make_zero_shot_data(tmp_path)      # data/pope/llava_pope_test.jsonl, data/pope/coco/..., ...

Written without any of our own code, so that it can test all of it.
"""

import base64
import io
import json
from pathlib import Path

SHORT = "Answer the question using a single word or phrase."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
LETTER = "Answer with the option's letter from the given choices directly."
_COLOURS = ("red", "green", "blue", "white")
MME_SUBTASKS = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
# The right answers to the questions of a file, in their order, for each benchmark that needs no judge or server.
RIGHT = {
    "llava_textvqa_val_v051_ocr.jsonl": ("red", "Green.", "the blue"),
    "llava_pope_test.jsonl": ("Yes", "No, it is red", "yes.", "no", "Yes", "There is not"),
    "llava_mme.jsonl": ("Yes", "No") * len(MME_SUBTASKS),
    "llava_test_CQM-A.json": ("A", "B", "A. one", "The answer is B."),
    "mmbench_dev_20230712.tsv": ("A", "C", "B.", "no"),
    "mmbench_dev_cn_20231003.tsv": ("A", "C", "B", "B"),
    "llava-seed-bench.jsonl": ("A", "B", "C"),
    "llava_vqav2_mscoco_val2014.jsonl": ("one", "1"),
    "llava_gqa_testdev_balanced.jsonl": ("Red.", "green", "blue"),
    "llava_val.jsonl": ("a can", "can"),
}


def make_zero_shot_data(folder: Path) -> Path:
    """Write all benchmarks into `folder`; return it."""
    for make in (_textvqa, _pope, _mme, _scienceqa, _seed, _mmvet, _vqav2, _gqa, _vizwiz, _wild, _coco):
        make(folder)
    for name, hint in (("mmbench_dev_20230712", "Look closely."), ("mmbench_dev_cn_20231003", "看图。")):
        _mmbench(folder / "mmbench" / f"{name}.tsv", hint)
    return folder


def picture(number: int, form: str = "PNG") -> bytes:
    """An image file: a coloured square of its own on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (36 + 5 * (number % 4), 30 + 7 * (number % 3)), "white")
    ImageDraw.Draw(image).rectangle((2 + number % 7, 3, 20 + number % 11, 22), fill=_COLOURS[number % 3])
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def _image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number, "JPEG" if path.suffix == ".jpg" else "PNG"))


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _json(path: Path, content) -> None:
    _text(path, json.dumps(content))


def _lines(path: Path, records) -> None:
    _text(path, "".join(json.dumps(record) + "\n" for record in records))


def _ten(answer: str) -> list[dict]:
    return [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]


def _textvqa(folder: Path) -> None:
    home, questions, annotations = folder / "textvqa", [], []
    for n in range(3):
        _image(home / "train_images" / f"img{n}.jpg", n)
        asked = f"What colour is word {n}?"
        ocr = f"\nReference OCR token: {_COLOURS[n]}, STOP\n" if n else "\n"
        questions.append({"question_id": f"img{n}", "image": f"img{n}.jpg", "text": f"{asked}{ocr}{SHORT}"})
        answers = [_COLOURS[n]] * 7 + ["blank"] * 3
        annotations.append({"question": asked, "image_id": f"img{n}", "question_id": 34600 + n, "answers": answers})
    _lines(home / "llava_textvqa_val_v051_ocr.jsonl", questions)
    _json(home / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_name": "textvqa", "data": annotations})


def _pope(folder: Path) -> None:
    home, questions = folder / "pope", []
    for split in ("random", "popular", "adversarial"):
        labels = []
        for n, label in enumerate(("yes", "no")):
            image = f"COCO_val2014_{n:012}.jpg"
            _image(home / "val2014" / image, n)
            text = f"Is there a {split} {_COLOURS[n]} square in the image?"
            labels.append({"question_id": n + 1, "image": image, "text": text, "label": label})
            number = len(questions)
            questions.append({"question_id": number, "image": image, "text": f"{text}\n{SHORT}", "category": split})
        _lines(home / "coco" / f"coco_pope_{split}.json", labels)
    _lines(home / "llava_pope_test.jsonl", questions)


def _mme(folder: Path) -> None:
    home, questions = folder / "MME", []
    for n, subtask in enumerate(MME_SUBTASKS):
        inner = ("images/", "questions_answers_YN/") if subtask in ("posters", "scene") else ("", "")
        root = home / "MME_Benchmark_release_version" / subtask
        _image(root / f"{inner[0]}{n:04}.png", n)
        pair = [(f"Is shape {n} {colour}?", answer) for colour, answer in (("red", "Yes"), ("green", "No"))]
        _text(root / f"{inner[1]}{n:04}.txt", "".join(f"{q} Please answer yes or no.\t{a}\n" for q, a in pair))
        for asked, _ in pair:
            image = f"{subtask}/{inner[0]}{n:04}.png"
            questions.append({"question_id": image, "image": image, "text": f"{asked}\n{SHORT}"})
    _lines(home / "llava_mme.jsonl", questions)


def _scienceqa(folder: Path) -> None:
    home, questions, problems = folder / "scienceqa", [], {}
    subjects = ("natural science", "social science", "language science", "natural science")
    for n, subject in enumerate(subjects):
        key, pictured = str(4 + n), n != 2
        problems[key] = {
            **{"question": f"Which is {n}?", "choices": ["one", "two", "three"][: 2 + n % 2], "answer": n % 2},
            **{"hint": "Read." if n == 1 else "", "image": "image.png" if pictured else None, "task": "closed choice"},
            **{"grade": f"grade{3 * n + 1}", "subject": subject, "topic": "x", "category": "x", "skill": "x"},
            **{"lecture": "", "solution": "", "split": "test"},
        }
        options = " ".join(f"({letter}) {c}" for letter, c in zip("ABC", problems[key]["choices"], strict=False))
        text = f"Question: Which is {n}?\nContext: N/A\nOptions: {options}\n"
        turns = [{"from": "human", "value": f"<image>\n{text}" if pictured else text}, {"from": "gpt", "value": "A"}]
        questions.append({"id": key, "conversations": turns})
        if pictured:
            questions[-1]["image"] = f"{key}/image.png"
            _image(home / "images" / "test" / key / "image.png", n)
    problems["900"] = problems["4"] | {"split": "train"}
    _json(home / "llava_test_CQM-A.json", questions)
    _json(home / "problems.json", problems)
    _json(home / "pid_splits.json", {"train": ["900"], "test": [str(4 + n) for n in range(len(subjects))]})


def _mmbench(path: Path, hint: str) -> None:
    """One question of three options in all its turns, one of two in one (the dev files have both kinds)."""
    columns = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category")
    columns += ("comment", "split")
    rows, options = [], ['a "red" square', "nan circle", "green"]
    for turn in range(3):
        shown = options[turn:] + options[:turn]
        cells = [7 + turn * 10**6, "What is\nit?", hint if turn else "", *shown, "", "ACB"[turn], "object", "", "web"]
        rows.append([*cells, "perception", "", "dev"])
    rows.append([8, "Is it red?", "", "yes", "no", "", "", "B", "attribute", "", "web", "perception", "", "dev"])
    for n, row in enumerate(rows):
        row[9] = base64.b64encode(picture(n % 3, "JPEG")).decode()

    def cell(value) -> str:
        text = str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set('"\t\n') else text

    _text(path, "".join("\t".join(map(cell, row)) + "\n" for row in (columns, *rows)))


def _seed(folder: Path) -> None:
    home, questions, official = folder / "seed_bench", [], []
    for n in range(3):
        video = n == 2
        image = f"SEED-Bench-video-image/{n}_0.png" if video else f"SEED-Bench-image/{n}_0"
        _image(home / image, n)
        options = "\n".join(f"{letter}. {colour}" for letter, colour in zip("ABCD", _COLOURS, strict=True))
        number = f"v{n}" if video else 100 + n
        text = f"Which colour?\n{options}\n{LETTER}"
        questions.append({"image": image, "text": text, "category": n + 1, "question_id": number})
        choices = {f"choice_{letter}": colour for letter, colour in zip("abcd", _COLOURS, strict=True)}
        official.append(
            {"answer": "ABC"[n], **choices, "data_id": f"{n}_0", "data_type": "video" if video else "image"}
            | {"question": "Which colour?", "question_id": str(number), "question_type_id": n + 1}
        )
    types = {"Scene Understanding": 1, "Instance Identity": 2, "Action Recognition": 3}
    _lines(home / "llava-seed-bench.jsonl", questions)
    _json(home / "SEED-Bench.json", {"question_type": types, "questions": official})


def _mmvet(folder: Path) -> None:
    home, questions, official = folder / "mm-vet", [], {}
    for n in range(2):
        _image(home / "images" / f"v1_{n}.png", n)
        questions.append({"image": f"v1_{n}.png", "text": f"What is x {n}?", "category": "default", "question_id": n})
        official[f"v1_{n}"] = {"imagename": f"v1_{n}.png", "question": f"What is x {n}?", "answer": "5"}
        official[f"v1_{n}"]["capability"] = ["ocr", "math"][: n + 1]
    _lines(home / "llava-mm-vet.jsonl", questions)
    _json(home / "mm-vet.json", official)


def _vqav2(folder: Path) -> None:
    home = folder / "vqav2"
    for name, images, count in (
        ("test-dev2015", "test2015", 2),
        ("test2015", "test2015", 3),
        ("val2014", "val2014", 2),
    ):
        questions = []
        for n in range(count):
            image = f"COCO_{images}_{n:012}.jpg"
            _image(home / images / image, n)
            text = f"How many squares?\n{SHORT}"
            questions.append({"question_id": 1000 * n + 1, "image": image, "text": text, "category": "default"})
        _lines(home / f"llava_vqav2_mscoco_{name}.jsonl", questions)
    annotations = [
        {"question_id": 1000 * n + 1, "image_id": n, "question_type": "how many", "answer_type": "number"}
        | {"multiple_choice_answer": "1", "answers": _ten("1")}
        for n in range(2)
    ]
    _json(home / "v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": annotations})


def _gqa(folder: Path) -> None:
    home, questions, official = folder / "gqa", [], {}
    for n, structural in enumerate(("query", "verify", "choose")):
        _image(home / "data" / "images" / f"n{n}.jpg", n)
        text = f"What is it?\n{SHORT}"
        questions.append({"question_id": f"20{n}", "image": f"n{n}.jpg", "text": text, "category": "default"})
        types = {"structural": structural, "semantic": "obj", "detailed": "x"}
        official[f"20{n}"] = {"question": "What is it?", "imageId": f"n{n}", "answer": _COLOURS[n], "isBalanced": True}
        official[f"20{n}"]["types"] = types
    _lines(home / "llava_gqa_testdev_balanced.jsonl", questions)
    _json(home / "data" / "testdev_balanced_questions.json", official)


def _vizwiz(folder: Path) -> None:
    home = folder / "vizwiz"
    for split in ("test", "val"):
        questions = []
        for n in range(2):
            image = f"VizWiz_{split}_{n:08}.jpg"
            _image(home / split / image, n)
            questions.append({"question_id": n, "image": image, "text": f"What is it?\n{UNANSWERABLE}\n{SHORT}"})
        _lines(home / f"llava_{split}.jsonl", questions)
    annotations = [
        {"image": f"VizWiz_val_{n:08}.jpg", "question": "What is it?", "answers": _ten("can"), "answer_type": "other"}
        | {"answerable": 1}
        for n in range(2)
    ]
    _json(home / "val.json", annotations)


def _review_files(home: Path, names: tuple[str, str, str], images: str, prefix: str, rules: str) -> None:
    questions, contexts, references = [], [], []
    for n, category in enumerate(("conv", "detail", "complex")):
        image = f"{n:03}.jpg"
        _image(home / images / f"{prefix}{image}", n)
        questions.append({"question_id": n, "image": image, "category": category, "text": f"Describe {n}."})
        box = {"category": "square", "bbox": [0.1, 0.2, 0.3, 0.4]}
        contexts.append({"id": n, "image": image, "caption": [f"Square {n}."], "instances": [box]})
        references.append({"question_id": n, "prompt": "", "text": f"A square {n}.", "answer_id": f"g{n}"})
        references[-1] |= {"model_id": "gpt-4", "metadata": {}}
    rule = {"role": "Assistant", "prompt": "Rate both answers."}
    for name, content in zip(names, (questions, contexts, references), strict=True):
        _lines(home / name, content)
    _json(home / "rule.json", {f"{rules}{name}": rule for name in ("conv", "detail", "complex")})


def _wild(folder: Path) -> None:
    names = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")
    _review_files(folder / "llava-bench-in-the-wild", names, "images", "", "llava_bench_")


def _coco(folder: Path) -> None:
    names = ("qa90_questions.jsonl", "caps_boxes_coco2014_val_80.jsonl", "qa90_gpt4_answer.jsonl")
    _review_files(folder / "coco2014_val_qa_eval", names, "val2014", "COCO_val2014_", "")
