"""A tokenizer, a model and records for LLaVA's tests."""

import json

import pytest
from tiny import PATCHES_PER_IMAGE, TASKS
from transformers import AutoTokenizer, CLIPImageProcessor

from llava.conversation import conv_templates
from llava.data.check import main as check_data
from llava.data.dataset import SupervisedDataset
from llava.data.first_look import refuse_unsupervised
from llava.model.builder import load_pretrained_model
from llava.train.arguments import load_tasks, parse_arguments
from llava.train.assembly import load_data
from visatb.errors import InputError

METRICS = {"SceneCaption": "cider", "ShapeVQA": "exact_match", "Grounding": "iou"}


@pytest.fixture
def tokenizer(tiny_checkpoint):
    """The tiny SentencePiece tokenizer, pad = unk as LLaVA-1.5 has it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint / "llama", use_fast=False)
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


@pytest.fixture
def model(tiny_checkpoint):
    """The tiny LLaVA in eval mode, a new one for each test."""
    return load_pretrained_model(str(tiny_checkpoint / "llava-tiny"), None, "llava-tiny", device="cpu")[1]


@pytest.fixture(scope="session")
def processor(tiny_checkpoint):
    return CLIPImageProcessor.from_pretrained(tiny_checkpoint / "vision_tower")


@pytest.fixture
def records(tiny_dataset):
    return json.loads(tiny_dataset.read_text())


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    lines = ["name: tiny", "data_folder: d", "image_folder: i", "tasks:"]
    for name in TASKS:
        what = f"metric: {METRICS[name]}" if name in METRICS else "weight: 1.0"
        lines.append(f"  - {{name: {name}, {what}, files: {{train: a.json, val: {name}-b.json, test: {name}-c.json}}}}")
    file = tmp_path_factory.mktemp("benchmark") / "tiny.yaml"
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def good(tiny_dataset):
    return json.loads(tiny_dataset.read_text())


@pytest.fixture(scope="module")
def check(tmp_path_factory, tiny_checkpoint, tiny_dataset, benchmark):
    """Check records: the report and what the command ended with (None: exit code 0)."""

    def check(records, *flags, against=None, tokens=True, tasks=True, images=tiny_dataset.parent / "images"):
        folder = tmp_path_factory.mktemp("check")
        train, output = folder / "train.json", folder / "report.json"
        train.write_text(json.dumps(records))
        argv = ["--data_path", train, "--patches_per_image", PATCHES_PER_IMAGE, "--output", output, *flags]
        argv += ["--tokenizer", tiny_checkpoint / "llama"] if tokens else []
        argv += ["--benchmark", benchmark] if tasks else []
        argv += ["--image_folder", images] if images else []
        if against is not None:
            (folder / "val.json").write_text(json.dumps(against))
            argv += ["--against", folder / "val.json"]
        ended = None
        try:
            assert check_data([str(word) for word in argv]) == 0
        except InputError as error:
            ended = str(error)
        report = json.loads(output.read_text())
        assert (ended is None) == (not report["errors"])
        return report, ended

    return check


@pytest.fixture(scope="module")
def training_refuses(tmp_path_factory, tiny_checkpoint, tiny_dataset, benchmark):
    """What training says to the same records before it starts, None if nothing."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint / "llama", use_fast=False)

    def refuses(records, limit=2048, tasks=True, images=tiny_dataset.parent / "images"):
        path = tmp_path_factory.mktemp("training") / "train.json"
        path.write_text(json.dumps(records))
        argv = ["--model_name_or_path", "m", "--output_dir", "o", "--data_path", path, "--no_cuda", "True"]
        argv += ["--benchmark", benchmark] if tasks else []
        argv += ["--image_folder", images] if images else []
        _, data, training = parse_arguments([str(word) for word in argv])
        try:
            names = load_tasks(data.benchmark, training.num_tasks)
            loaded = load_data(data, names)
            ids = {name: k for k, name in enumerate(names)}
            dataset = SupervisedDataset(
                loaded, tokenizer, conv_templates["v1"], ids, "processor", images or "none", source=str(path)
            )
            refuse_unsupervised(dataset, names, limit, PATCHES_PER_IMAGE)
            for n in range(len(dataset)):
                dataset.encode(n)
        except InputError as error:
            return str(error)
        return None

    return refuses
