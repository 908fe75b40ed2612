"""The zero-shot suite on small data in the official formats: from LLaVA's question files to metric files."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from judge_endpoint import judge_endpoint
from zero_shot_data import MME_SUBTASKS, make_zero_shot_data

from eval.score_tables import read_score_table
from llava.eval import common, model_vqa_mmbench, suite
from llava.eval.work import Answer
from llava.eval.zero_shot import BENCHMARKS, ZERO_SHOT_TASKS
from visatb.errors import InputError

SHORT = ["--max_new_tokens", "5"]
TASKS = {bench.task for bench in BENCHMARKS.values() if bench.task}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """All benchmarks. Read only."""
    return make_zero_shot_data(tmp_path_factory.mktemp("zero_shot"))


@pytest.fixture
def own_data(data, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(data, tmp_path / "data"))


@pytest.fixture(scope="module")
def judge():
    """The address of an endpoint that rates every answer 6 against 8."""
    with judge_endpoint() as stub:
        yield stub.url


def command(tiny_checkpoint, data, output, *extra) -> list[str]:
    words = ["--model-path", tiny_checkpoint / "llava-tiny", "--data", data, "--output", output, *SHORT, *extra]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, data, judge, tmp_path_factory) -> Path:
    """The output of all benchmarks, by one process."""
    output = tmp_path_factory.mktemp("whole")
    asked = ["--benchmarks", "all", "--judge-model", "any", "--judge-url", judge, "--batch-size", "8"]
    assert suite.main(command(tiny_checkpoint, data, output, *asked)) == 0
    return output


@pytest.fixture
def no_model(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the model must not be loaded")

    monkeypatch.setattr(common.Answerer, "load", load)


def answers_of(output: Path, name: str) -> Path:
    bench = BENCHMARKS[name]
    path = bench.answers.replace("{split}", bench.split).replace("{model}", "llava-tiny")
    return output / bench.folders[0] / path


def script(repository, name, tiny_checkpoint, data, output, **variables) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a benchmark's script, on the CPU."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NUM_", "EVAL_"))}
    environment |= {"CKPT": str(tiny_checkpoint / "llava-tiny"), "EVAL_DATA": str(data), "EVAL_OUTPUT": str(output)}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **variables}
    return ["bash", str(repository / f"scripts_visatb/eval/{name}.sh"), *SHORT], environment


def run_script(repository, name, *args, **variables) -> subprocess.CompletedProcess:
    words, environment = script(repository, name, *args, **variables)
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, cwd=args[-1].parent)


def test_every_benchmark_has_its_answers_and_every_task_its_score(whole):
    for name in BENCHMARKS:
        lines = [json.loads(line) for line in answers_of(whole, name).read_text().splitlines()]
        assert lines and all(line["model_id"] == "llava-tiny" and isinstance(line["text"], str) for line in lines), name
    scores = read_score_table(whole / "metrics").rows["llava-tiny"]
    assert set(scores) == TASKS - {"MM-Vet"}, "MM-Vet is graded elsewhere"
    assert scores["LLaVA-Bench"] == scores["LLaVA-COCO"] == 75
    metric = json.loads((whole / "metrics" / "llava-tiny" / "MME.json").read_text())
    assert metric["n"] == 2 * len(MME_SUBTASKS) and metric["generator"] == "llava-tiny"


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


def test_right_answers_score_in_full(tiny_checkpoint, data, tmp_path, monkeypatch):
    """The chain from the question files to the metric files, with a model that knows."""

    class Knowing:
        def asking(self, settings):
            return self

    def answer_all(answerer, questions, settled, batch_size, workers):
        for question in reversed(questions):
            known = RIGHT.get(Path(question.where.partition(":")[0]).name)
            yield [Answer(question.position, text="?" if known is None else known[question.position])]

    monkeypatch.setattr(common.Answerer, "load", lambda *_, **__: Knowing())
    monkeypatch.setattr(common, "answer_all", answer_all)
    assert suite.main(command(tiny_checkpoint, data, tmp_path, "--benchmarks", "all")) == 0
    scores = read_score_table(tmp_path / "metrics").rows["llava-tiny"]
    assert len(scores) == len(RIGHT) and scores.pop("MME") == 2000
    assert all(score == 100 for score in scores.values()), scores


@pytest.mark.parametrize(
    "path",
    [
        "MME/eval_tool/answers/llava-tiny/code_reasoning.txt",
        "gqa/data/testdev_balanced_predictions.json",
        "llava-bench-in-the-wild/reviews/llava-tiny.jsonl",
        "mm-vet/results/llava-tiny.json",
        "mmbench/answers_upload/mmbench_dev_20230712/llava-tiny.xlsx",
        "mmbench/answers_upload/mmbench_dev_cn_20231003/llava-tiny.xlsx",
        "scienceqa/answers/llava-tiny_result.json",
        "seed_bench/answers_upload/llava-tiny.jsonl",
        "vizwiz/answers_upload/llava-tiny.json",
        "vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/llava-tiny.json",
    ],
)
def test_submissions_lie_where_llava_puts_them(whole, path):
    assert (whole / path).stat().st_size > 0


def test_the_submission_has_every_question_that_the_server_wants(whole):
    file = whole / "vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/llava-tiny.json"
    submitted = json.loads(file.read_text())
    assert [one["question_id"] for one in submitted] == [1, 1001, 2001] and submitted[2]["answer"] == ""


def test_a_finished_suite_loads_nothing_and_scores_again(tiny_checkpoint, data, whole, no_model, capsys):
    metric = whole / "metrics" / "llava-tiny" / "POPE.json"
    before = metric.read_bytes()
    metric.unlink()
    assert suite.main(command(tiny_checkpoint, data, whole, "--benchmarks", "all", "--batch-size", "3")) == 0
    assert metric.read_bytes() == before
    printed = capsys.readouterr().out
    assert "llavabench_review: reviews need a judging model" in printed and "skipped" in printed
    assert "66.67" in printed and "mean_f1" in printed


def test_one_process_by_one_question_gives_the_same_files(tiny_checkpoint, data, whole, tmp_path):
    assert suite.main(command(tiny_checkpoint, data, tmp_path, "--benchmarks", "all", "--batch-size", "1")) == 0
    for name in BENCHMARKS:
        assert answers_of(tmp_path, name).read_bytes() == answers_of(whole, name).read_bytes(), name


def test_chunks_of_several_machines_join_and_the_last_one_scores(tiny_checkpoint, data, whole, tmp_path, capsys):
    asked = command(tiny_checkpoint, data, tmp_path, "--benchmarks", "textvqa,sqa,mmbench", "--num-chunks", "3")
    for chunk in (2, 0, 1):
        assert not (tmp_path / "metrics").exists(), "merging demands all chunks"
        assert suite.main([*asked, "--chunk-idx", str(chunk)]) == 0
        assert ("left to other chunks" in capsys.readouterr().out) == (chunk != 1)
    for name in ("textvqa", "sqa", "mmbench"):
        assert answers_of(tmp_path, name).read_bytes() == answers_of(whole, name).read_bytes()
    assert set(read_score_table(tmp_path / "metrics").columns) == {"TextVQA", "SQA", "MMBench"}


def test_a_script_by_three_processes_gives_the_same_file(repository, tiny_checkpoint, data, whole, tmp_path):
    done = run_script(repository, "pope", tiny_checkpoint, data, tmp_path / "out", NUM_PROCESSES="3", BATCH_SIZE="1")
    assert done.returncode == 0, done.stderr
    assert "mean F1 66.67" in done.stdout
    assert answers_of(tmp_path / "out", "pope").read_bytes() == answers_of(whole, "pope").read_bytes()
    parts = list((tmp_path / "out/pope/answers/work").glob("*/chunk-*.jsonl"))
    assert len(parts) == 3 and all(len(part.read_text().splitlines()) == 2 for part in parts)
    metric = (tmp_path / "out/metrics/llava-tiny/POPE.json").read_text()
    assert metric == (whole / "metrics/llava-tiny/POPE.json").read_text()


def test_a_killed_script_goes_on_and_ends_with_the_same_file(repository, tiny_checkpoint, data, whole, tmp_path):
    words, environment = script(repository, "mme", tiny_checkpoint, data, tmp_path / "out", BATCH_SIZE="1")
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = 0
    while process.poll() is None and made < 3:
        time.sleep(0.02)
        made = sum(part.read_bytes().count(b"\n") for part in (tmp_path / "out/MME").rglob("chunk-*.jsonl"))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert made >= 3 and not answers_of(tmp_path / "out", "mme").exists()
    assert suite.main(command(tiny_checkpoint, data, tmp_path / "out", "--benchmarks", "mme")) == 0
    assert answers_of(tmp_path / "out", "mme").read_bytes() == answers_of(whole, "mme").read_bytes()


def test_a_script_takes_the_chinese_table_from_either_folder(repository, tiny_checkpoint, own_data, whole):
    (own_data / "mmbench_cn").mkdir()
    table = own_data / "mmbench" / "mmbench_dev_cn_20231003.tsv"
    table.rename(own_data / "mmbench_cn" / table.name)
    done = run_script(repository, "mmbench_cn", tiny_checkpoint, own_data, own_data, MODEL_NAME="llava-tiny")
    assert done.returncode == 0 and "Circular accuracy" in done.stdout, done.stderr
    answers = own_data / "mmbench_cn/answers/mmbench_dev_cn_20231003/llava-tiny.jsonl"
    assert answers.read_bytes() == answers_of(whole, "mmbench_cn").read_bytes()
    assert (own_data / "metrics/llava-tiny/MMBench-CN.json").is_file()


def test_the_scripts_are_one_runner_and_one_for_each_benchmark(repository, tmp_path):
    scripts = {path.stem: path for path in (repository / "scripts_visatb/eval").glob("*.sh")} | {}
    assert set(scripts) == {name for name in BENCHMARKS if not name.endswith("_val")} | {"run"}
    for name, path in scripts.items():
        subprocess.run(["bash", "-n", str(path)], check=True)
        if name == "run":
            continue
        assert "set -euo pipefail" in path.read_text()
        empty = subprocess.run(["bash", str(path)], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
        assert empty.returncode != 0 and "set CKPT to" in empty.stderr and empty.stderr.count("\n") == 1
        variables = {"CKPT": "a model", "PYTHON": "echo", "SPLIT": "s", "JUDGE_MODEL": "j", "MODEL_BASE": "b"}
        variables["PATH"] = os.environ["PATH"]
        told = subprocess.run(["bash", str(path), "--seed", "3"], capture_output=True, text=True, env=variables).stdout
        assert f"-m llava.eval.suite --benchmarks {name} --model-path a model --data playground/data/eval" in told
        assert "--split s" in told and told.endswith("--judge-model j --seed 3\n")


@pytest.mark.parametrize(
    ("name", "gone", "source"),
    [
        ("pope", "coco", "AoiDragon/POPE"),
        ("pope", "val2014", "val2014.zip"),
        ("textvqa", "llava_textvqa_val_v051_ocr.jsonl", "eval.zip"),
        ("mmbench", "mmbench_dev_20230712.tsv", "openmmlab"),
        ("sqa", "problems.json", "ScienceQA"),
        ("seed", "SEED-Bench-video-image", "SEED-Bench"),
        ("vqav2", "llava_vqav2_mscoco_test2015.jsonl", "eval.zip"),
    ],
)
def test_missing_data_is_named_with_its_source(tiny_checkpoint, own_data, no_model, name, gone, source):
    place = own_data / BENCHMARKS[name].folders[0] / gone
    place.rename(own_data / "elsewhere")
    with pytest.raises(InputError) as refused:
        suite.main(command(tiny_checkpoint, own_data, own_data, "--benchmarks", name))
    assert str(place) in str(refused.value) and source in str(refused.value) and "\n" not in str(refused.value)


def test_a_script_refuses_missing_data_in_one_line(repository, tiny_checkpoint, own_data):
    shutil.rmtree(own_data / "pope" / "val2014")
    done = run_script(repository, "pope", tiny_checkpoint, own_data, own_data)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert done.stderr.startswith("error: pope: missing: ") and "val2014" in done.stderr


def test_bad_tables_are_refused_before_and_damaged_images_after_they_are_read(tiny_checkpoint, own_data, capsys):
    table = own_data / "mmbench" / "mmbench_dev_20230712.tsv"
    rows = table.read_text().split("\n")
    cells = rows[-2].split("\t")
    asked = command(tiny_checkpoint, own_data, own_data, "--benchmarks", "mmbench")
    cells[9] = "!" + cells[9]
    table.write_text("\n".join([*rows[:-2], "\t".join(cells), ""]))
    with pytest.raises(InputError, match=r"mmbench_dev_20230712.tsv: row 4 \(index 8\): image must be base64"):
        suite.main(asked)
    cells[9] = cells[9][1:41]
    table.write_text("\n".join([*rows[:-2], "\t".join(cells), ""]))
    assert suite.main(asked) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "row 4 (index 8): image" in told and "1 of 4 questions have no answer" in told
    assert not (own_data / "metrics/llava-tiny/MMBench.json").exists()


def test_a_benchmark_that_fails_is_told_and_the_others_go_on(tiny_checkpoint, own_data, capsys):
    annotations = own_data / "textvqa" / "TextVQA_0.5.1_val.json"
    content = json.loads(annotations.read_text())
    content["data"].append(content["data"][0] | {"image_id": "another"})
    annotations.write_text(json.dumps(content))
    (own_data / "seed_bench" / "llava-seed-bench.jsonl").write_text("[]\n")
    shutil.rmtree(own_data / "gqa")
    assert suite.main(command(tiny_checkpoint, own_data, own_data, "--benchmarks", "textvqa,seed,gqa,sqa")) == 2
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if line.startswith("error")]
    assert len(told) == 3 and "1 of 4 questions" in told[0] and "record 0" in told[1] and "gqa: missing" in told[2]
    assert set(read_score_table(own_data / "metrics").columns) == {"SQA"}
    assert [word for word in printed.out.split() if word in ("scored", "failed", "missing")] == [
        *("failed", "scored", "failed", "missing")
    ]


def test_all_is_what_is_there(tiny_checkpoint, own_data, tmp_path, capsys):
    for folder in own_data.iterdir():
        if folder.name != "vizwiz":
            shutil.rmtree(folder)
    assert suite.main(command(tiny_checkpoint, own_data, own_data)) == 0
    printed = capsys.readouterr().out
    assert printed.count("missing:") == len(BENCHMARKS) - 2 and "Put it there" in printed
    (tmp_path / "empty").mkdir()
    assert suite.main(command(tiny_checkpoint, tmp_path / "empty", tmp_path / "empty")) == 2


def test_answers_of_another_model_are_kept_unless_told_otherwise(tiny_checkpoint, data, whole, tmp_path, capsys):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    asked = command(tiny_checkpoint, data, output, "--benchmarks", "pope", "--conv-mode", "llava_v0")
    before = answers_of(output, "pope").read_bytes()
    with pytest.raises(InputError, match=r"made by another run \(differs in: conv_mode\)"):
        suite.main(asked)
    assert answers_of(output, "pope").read_bytes() == before
    assert suite.main([*asked, "--overwrite"]) == 0


def test_improvement_against_another_model_is_over_the_papers_tasks(tiny_checkpoint, data, whole, tmp_path, capsys):
    def metric(task, score):
        content = {"metric": "x", "score": score, "task": task, "generator": "ew"}
        (tmp_path / "ew").mkdir(exist_ok=True)
        (tmp_path / "ew" / f"{task}.json").write_text(json.dumps(content))

    assert len(ZERO_SHOT_TASKS) == 7
    metric("POPE", 80)
    metric("GQA", 0)
    asked = command(tiny_checkpoint, data, whole, "--benchmarks", "pope", "--baseline", tmp_path / "ew")
    assert suite.main(asked) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith("without TextVQA, MME, SQA, MMBench, SEED, MM-Vet)") and "-16.67 (POPE -16.67%" in line
    metric("MME", 0)
    assert suite.main(asked) == 2
    assert "the baseline must be above 0" in capsys.readouterr().err


def test_grades_of_mmvet_are_scored_once_they_are_there(tiny_checkpoint, data, whole, tmp_path, no_model):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    grades = {f"v1_{n}": {"model": ["gpt-4"], "content": ["x"], "score": [0.5 + 0.2 * n]} for n in range(2)}
    (output / "mm-vet/results/llava-tiny_gpt-4-0613-grade-1runs.json").write_text(json.dumps(grades))
    (output / "mm-vet/results/llava-tiny_b_gpt-4-0613-grade-1runs.json").write_text("{}")
    assert suite.main(command(tiny_checkpoint, data, output, "--benchmarks", "mmvet")) == 0
    assert read_score_table(output / "metrics").rows["llava-tiny"]["MM-Vet"] == pytest.approx(60)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmarks", "pop"], "--benchmarks must name some of all, textvqa"),
        (["--benchmarks", "pope", "--split", "x"], "--split is for one of mmbench"),
        (["--benchmarks", "all", "--split", "x"], "--split is for one of"),
        (["--benchmarks", "gqa", "--split", "../x"], "--split must be the name"),
        (["--data", "nowhere"], "no such folder"),
        (["--batch-size", "0"], "--batch-size"),
        (["--processes", "0"], "--processes"),
        (["--chunk-idx", "1"], "--chunk-idx"),
        (["--model-name", "a/b"], "--model-name"),
        (["--benchmarks", "llavabench_review"], "need a judging model"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_loaded(tiny_checkpoint, data, tmp_path, no_model, flags, message):
    with pytest.raises(InputError, match=message):
        suite.main(command(tiny_checkpoint, data, tmp_path, *flags))


def test_all_rounds_turn_the_options(tiny_checkpoint, data, tmp_path):
    answers = tmp_path / "rounds.jsonl"
    table = data / "mmbench" / "mmbench_dev_cn_20231003.tsv"
    asked = ["--model-path", str(tiny_checkpoint / "llava-tiny"), "--question-file", str(table), *SHORT]
    assert model_vqa_mmbench.main([*asked, "--answers-file", str(answers), "--all-rounds", "--lang", "cn"]) == 0
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [(line["question_id"], line["round_id"]) for line in lines[-2:]] == [(8, 0), (8, 1)] and len(lines) == 11
    assert lines[-1]["option_char"] == ["B", "A"] and lines[-1]["options"] == ["no", "yes"]
    assert list(lines[0]) == [
        *("question_id", "round_id", "prompt", "text", "options", "option_char", "answer_id", "model_id", "metadata")
    ]


def test_the_page_says_where_every_file_comes_from(repository):
    page = (repository / "docs" / "evaluation.md").read_text()
    for name, bench in BENCHMARKS.items():
        assert f"`{name}`" in page, f"docs/evaluation.md does not name {name}"
        for source in bench.needs.values():
            address = source.replace("{split}", bench.split).partition("(")[2].rstrip(")") or source
            address = address.replace("{split}", bench.split)
            assert address in page or "own conversion" in source, f"{name}: docs/evaluation.md lacks {address}"
    runner = (repository / "scripts_visatb/eval/run.sh").read_text()
    for variable in set(re.findall(r"\$\{([A-Z_]+):[-?]", runner)):
        assert f"`{variable}`" in page, f"docs/evaluation.md does not explain {variable}"
