"""The zero-shot benchmarks as data: which files they need and where those come from, how they are asked and scored.

Layout and file names are LLaVA's `playground/data/eval`; docs/evaluation.md says the same in words. Paths are relative
to the benchmark's folder and may name {split}, {tier} (GQA) and {model}. Needs no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from llava.eval import model_vqa_loader, model_vqa_mmbench, model_vqa_science
from llava.eval.scorers import (
    gqa,
    llavabench,
    mmbench,
    mme,
    mmvet,
    pope,
    scienceqa,
    seed,
    submissions,
    textvqa,
    vizwiz,
    vqav2,
)
from llava.eval.scorers.mmbench_table import read_table
from llava.generate.answers import Asked

# Table 4 of arXiv 2403.04343: dI_zero% is over these.
ZERO_SHOT_TASKS = ("TextVQA", "POPE", "MME", "SQA", "MMBench", "SEED", "MM-Vet")

LLAVA_FILES = "LLaVA's eval.zip (https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy/view?usp=sharing)"
COCO = "http://images.cocodataset.org/zips/{}.zip"
MME_SITE = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation"
POPE_SITE = "https://github.com/AoiDragon/POPE/tree/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco"
SQA_SITE = "https://github.com/lupantech/ScienceQA"
SEED_SITE = "https://github.com/AILab-CVC/SEED-Bench/blob/main/DATASET.md"
MMBENCH_SITE = "https://download.openmmlab.com/mmclassification/datasets/mmbench/{split}.tsv"
MMVET_ZIP = "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip"
GQA_SITE = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
VQAV2_SITE = "https://visualqa.org/download.html"
VIZWIZ_ANNOTATIONS = "https://vizwiz.cs.colorado.edu/VizWiz_final/vqa_data/Annotations.zip"
VIZWIZ_IMAGES = "https://vizwiz.cs.colorado.edu/VizWiz_final/images/{}.zip"
WILD_SITE = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
RULE = "https://github.com/haotian-liu/LLaVA/blob/main/llava/eval/table/rule.json"
COCO_QA = "https://github.com/haotian-liu/LLaVA/tree/main/playground/data/coco2014_val_qa_eval"
COCO_BOXES = "https://github.com/haotian-liu/LLaVA/blob/main/llava/eval/table/caps_boxes_coco2014_val_80.jsonl"
LIKE_TEST = "your own conversion, of the form of LLaVA's test file"

Command = tuple[Callable[[Sequence[str]], int], list[str]]


@dataclass(frozen=True)
class Place:
    """Where one model takes one benchmark.

    Attributes:
        source, target: the benchmark's folder of data, and that of what is written.
        split: name of the question file where the benchmark has several.
        model: the model's name.
        task: the name in metric files: the benchmark's, with `-<split>` behind it for a split that is not its default.
        answers, metric: the answers file and the metric file.
        judge: flags of the judging model; none if there is no judge.
    """

    source: Path
    target: Path
    split: str
    model: str
    task: str
    answers: Path
    metric: Path
    judge: tuple[str, ...] = ()

    def text(self, template: str) -> str:
        """A template with its names filled in."""
        tier = self.split.removeprefix("llava_gqa_")
        return template.replace("{split}", self.split).replace("{tier}", tier).replace("{model}", self.model)

    def data(self, template: str) -> str:
        """The path of something that is read."""
        return str(self.source / self.text(template))

    def made(self, template: str) -> str:
        """The path of something that is written."""
        return str(self.target / self.text(template))

    def metric_flags(self) -> list[str]:
        """The flags that make a scorer write the metric file and the score of every question."""
        per_record = self.metric.with_suffix(".per_record.jsonl")
        return ["--output", str(self.metric), "--per-record", str(per_record), "--task", self.task]


@dataclass(frozen=True)
class ZeroShot:
    """One benchmark.

    Attributes:
        task: its name in metric files; "" where no number can be had here.
        folders: of its data, the first that is there counts.
        questions, images, answers: the question file, the image folder ("" for none) and the answers file.
        needs: what must be there besides -> where it comes from; the question file and the images stand here too.
        commands: what is run with the answers file: scorers and converters with their flags.
        read: (question file, image folder) -> questions.
        split: default of {split}; "" where there is but one.
        max_new_tokens: longest answer, as LLaVA's command for the benchmark has it.
        judged: whether it needs a judging model.
    """

    task: str
    folders: tuple[str, ...]
    questions: str
    images: str
    needs: Mapping[str, str]
    commands: Callable[[Place], list[Command]]
    answers: str = "answers/{model}.jsonl"
    read: Callable[[str, str], list[Asked]] = model_vqa_loader.read
    split: str = ""
    max_new_tokens: int = 128
    judged: bool = False


def scored(main: Callable[[Sequence[str]], int], **flags: str) -> Callable[[Place], list[Command]]:
    """One scorer that writes the metric file; `flags` are paths of data (or, with a leading +, of what is written)."""

    def commands(place: Place) -> list[Command]:
        words = ["--answers-file", str(place.answers), *place.metric_flags()]
        for flag, path in flags.items():
            value = place.made(path[1:]) if path.startswith("+") else place.data(path)
            words += [f"--{flag.replace('_', '-')}", value]
        return [(main, words)]

    return commands


def submitted(benchmark: str, output: str, **flags: str) -> Callable[[Place], list[Command]]:
    """The converter that writes the file which the benchmark's server takes; `flags` are paths of data."""

    def commands(place: Place) -> list[Command]:
        words = [benchmark, "--answers-file", str(place.answers), "--output", place.made(output)]
        for flag, path in flags.items():
            words += [f"--{flag.replace('_', '-')}", place.data(path)]
        return [(submissions.main, words)]

    return commands


def _gqa(place: Place) -> list[Command]:
    predictions = submitted("gqa", "data/{tier}_predictions.json", question_file="{split}.jsonl")
    return predictions(place) + scored(gqa.main, annotation_file="data/{tier}_questions.json")(place)


def _mmbench(place: Place) -> list[Command]:
    """The workbook for the server, and the score where the table has the answers."""
    table = place.data("{split}.tsv")
    words = ["--answers-file", str(place.answers), "--annotation-file", table]
    words += ["--result-upload-file", place.made("answers_upload/{split}/{model}.xlsx")]
    has_answers = any(row.cells.get("answer") is not None for row in read_table(table))
    return [(mmbench.main, words + (place.metric_flags() if has_answers else ["--no-score"]))]


def _mmvet(place: Place) -> list[Command]:
    """The score where the official evaluator's grades are there already, and the file that it grades.

    In this order: grades are compared with the file that they were given to before it is written again.
    """
    commands = submitted("mmvet", "results/{model}.json", question_file="llava-mm-vet.jsonl")(place)
    grades = mmvet.grades_of(place.model, place.made("results"))
    if grades:
        words = ["--grade-file", str(grades[-1]), "--answers-file", str(place.answers), *place.metric_flags()]
        official = place.data("mm-vet.json")
        words += ["--annotation-file", official] if Path(official).exists() else []
        commands.insert(0, (mmvet.main, words))
    return commands


def _reviewed(benchmark: str, question: str, context: str, reference: str) -> Callable[[Place], list[Command]]:
    def commands(place: Place) -> list[Command]:
        words = ["--benchmark", benchmark, "--question", place.data(question), "--context", place.data(context)]
        words += ["--rule", place.data("rule.json"), "--answer-list", place.data(reference), str(place.answers)]
        words += ["--reviews-file", place.made("reviews/{model}.jsonl"), *place.metric_flags(), *place.judge]
        return [(llavabench.main, words)]

    return commands


def _nothing(place: Place) -> list[Command]:
    return []


_MMBENCH = ZeroShot(
    "MMBench",
    ("mmbench",),
    "{split}.tsv",
    "",
    {"{split}.tsv": MMBENCH_SITE},
    _mmbench,
    "answers/{split}/{model}.jsonl",
    read=lambda path, images: model_vqa_mmbench.read(path, single_pred_prompt=True),
    split="mmbench_dev_20230712",
    max_new_tokens=1024,
)
_WILD = ZeroShot(
    "",
    ("llava-bench-in-the-wild",),
    "questions.jsonl",
    "images",
    {"questions.jsonl": WILD_SITE, "images": WILD_SITE},
    _nothing,
    max_new_tokens=1024,
)
_COCO = ZeroShot(
    "",
    ("coco2014_val_qa_eval",),
    "qa90_questions.jsonl",
    "val2014",
    {"qa90_questions.jsonl": COCO_QA, "val2014": COCO.format("val2014")},
    _nothing,
    read=partial(model_vqa_loader.read, image_prefix="COCO_val2014_"),
    max_new_tokens=1024,
)

BENCHMARKS: Mapping[str, ZeroShot] = {
    "textvqa": ZeroShot(
        "TextVQA",
        ("textvqa",),
        "llava_textvqa_val_v051_ocr.jsonl",
        "train_images",
        {
            "llava_textvqa_val_v051_ocr.jsonl": LLAVA_FILES,
            "TextVQA_0.5.1_val.json": "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json",
            "train_images": "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
        },
        scored(textvqa.main, annotation_file="TextVQA_0.5.1_val.json"),
    ),
    "pope": ZeroShot(
        "POPE",
        ("pope",),
        "llava_pope_test.jsonl",
        "val2014",
        {"llava_pope_test.jsonl": LLAVA_FILES, "coco": POPE_SITE, "val2014": COCO.format("val2014")},
        scored(pope.main, annotation_dir="coco", question_file="llava_pope_test.jsonl"),
    ),
    "mme": ZeroShot(
        "MME",
        ("MME",),
        "llava_mme.jsonl",
        "MME_Benchmark_release_version",
        {"llava_mme.jsonl": LLAVA_FILES, "MME_Benchmark_release_version": MME_SITE},
        scored(
            mme.main,
            annotation_dir="MME_Benchmark_release_version",
            result_upload_dir="+eval_tool/answers/{model}",
        ),
    ),
    "sqa": ZeroShot(
        "SQA",
        ("scienceqa",),
        "llava_test_CQM-A.json",
        "images/test",
        {
            "llava_test_CQM-A.json": LLAVA_FILES,
            "problems.json": SQA_SITE,
            "pid_splits.json": SQA_SITE,
            "images/test": SQA_SITE,
        },
        scored(
            scienceqa.main,
            base_dir=".",
            output_file="+answers/{model}_output.jsonl",
            output_result="+answers/{model}_result.json",
        ),
        read=lambda path, images: model_vqa_science.read(path, images, single_pred_prompt=True),
        max_new_tokens=1024,
    ),
    "mmbench": _MMBENCH,
    "mmbench_cn": replace(
        _MMBENCH,
        task="MMBench-CN",
        folders=("mmbench", "mmbench_cn"),
        read=lambda path, images: model_vqa_mmbench.read(path, single_pred_prompt=True, lang="cn"),
        split="mmbench_dev_cn_20231003",
    ),
    "seed": ZeroShot(
        "SEED",
        ("seed_bench",),
        "llava-seed-bench.jsonl",
        ".",
        {
            "llava-seed-bench.jsonl": LLAVA_FILES,
            "SEED-Bench.json": SEED_SITE,
            "SEED-Bench-image": SEED_SITE,
            "SEED-Bench-video-image": SEED_SITE,
        },
        scored(
            seed.main,
            annotation_file="SEED-Bench.json",
            result_upload_file="+answers_upload/{model}.jsonl",
        ),
        "answers/{model}/merge.jsonl",
    ),
    "mmvet": ZeroShot(
        "MM-Vet",
        ("mm-vet",),
        "llava-mm-vet.jsonl",
        "images",
        {"llava-mm-vet.jsonl": LLAVA_FILES, "images": MMVET_ZIP},
        _mmvet,
        max_new_tokens=1024,
    ),
    "vqav2": ZeroShot(
        "",
        ("vqav2",),
        "{split}.jsonl",
        "test2015",
        {
            "{split}.jsonl": LLAVA_FILES,
            "llava_vqav2_mscoco_test2015.jsonl": LLAVA_FILES,
            "test2015": COCO.format("test2015"),
        },
        submitted(
            "vqav2",
            "answers_upload/{split}/{model}.json",
            question_file="{split}.jsonl",
            all_question_file="llava_vqav2_mscoco_test2015.jsonl",
        ),
        "answers/{split}/{model}/merge.jsonl",
        split="llava_vqav2_mscoco_test-dev2015",
    ),
    "vqav2_val": ZeroShot(
        "VQAv2",
        ("vqav2",),
        "{split}.jsonl",
        "val2014",
        {
            "{split}.jsonl": LIKE_TEST,
            "v2_mscoco_val2014_annotations.json": VQAV2_SITE,
            "val2014": COCO.format("val2014"),
        },
        scored(vqav2.main, annotation_file="v2_mscoco_val2014_annotations.json"),
        "answers/{split}/{model}/merge.jsonl",
        split="llava_vqav2_mscoco_val2014",
    ),
    "gqa": ZeroShot(
        "GQA",
        ("gqa",),
        "{split}.jsonl",
        "data/images",
        {"{split}.jsonl": LLAVA_FILES, "data/{tier}_questions.json": GQA_SITE, "data/images": GQA_SITE},
        _gqa,
        "answers/{split}/{model}/merge.jsonl",
        split="llava_gqa_testdev_balanced",
    ),
    "vizwiz": ZeroShot(
        "",
        ("vizwiz",),
        "llava_test.jsonl",
        "test",
        {"llava_test.jsonl": LLAVA_FILES, "test": VIZWIZ_IMAGES.format("test")},
        submitted("vizwiz", "answers_upload/{model}.json", question_file="llava_test.jsonl"),
    ),
    "vizwiz_val": ZeroShot(
        "VizWiz",
        ("vizwiz",),
        "llava_val.jsonl",
        "val",
        {"llava_val.jsonl": LIKE_TEST, "val.json": VIZWIZ_ANNOTATIONS, "val": VIZWIZ_IMAGES.format("val")},
        scored(vizwiz.main, question_file="llava_val.jsonl", annotation_file="val.json"),
        "answers/llava_val/{model}.jsonl",
    ),
    "llavabench": _WILD,
    "llavabench_review": replace(
        _WILD,
        task="LLaVA-Bench",
        needs={**_WILD.needs, "context.jsonl": WILD_SITE, "answers_gpt4.jsonl": WILD_SITE, "rule.json": RULE},
        commands=_reviewed("llavabench", "questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"),
        judged=True,
    ),
    "llavacoco": _COCO,
    "llavacoco_review": replace(
        _COCO,
        task="LLaVA-COCO",
        needs={
            **_COCO.needs,
            "qa90_gpt4_answer.jsonl": COCO_QA,
            "caps_boxes_coco2014_val_80.jsonl": COCO_BOXES,
            "rule.json": RULE,
        },
        commands=_reviewed(
            "llavacoco", "qa90_questions.jsonl", "caps_boxes_coco2014_val_80.jsonl", "qa90_gpt4_answer.jsonl"
        ),
        judged=True,
    ),
}
