"""The zero-shot suite on small data in the official formats: from LLaVA's question files to metric files."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from judge_endpoint import judge_endpoint
from suite_calls import SHORT, answers_of, command, run_script, script
from waiting import until
from zero_shot_data import MME_SUBTASKS, RIGHT

from eval.score_tables import read_score_table
from eval.zero_shot.table import BENCHMARKS, ZERO_SHOT_TASKS
from llava.eval import model_vqa_mmbench, suite
from llava.generate.engine import Prompt
from llava.generate.llava_engine import LlavaEngine
from visatb.errors import InputError

TASKS = {bench.task for bench in BENCHMARKS.values() if bench.task}


@pytest.fixture(scope="module")
def judge():
    """The address of an endpoint that rates every answer 6 against 8."""
    with judge_endpoint() as stub:
        yield stub.url


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, data, judge, tmp_path_factory) -> Path:
    """The output of all benchmarks, by one process."""
    output = tmp_path_factory.mktemp("whole")
    asked = ["--benchmarks", "all", "--judge-model", "any", "--judge-url", judge, "--batch-size", "8"]
    assert suite.main(command(tiny_checkpoint, data, output, *asked)) == 0
    return output


def test_every_benchmark_has_its_answers_and_every_task_its_score(whole):
    for name in BENCHMARKS:
        lines = [json.loads(line) for line in answers_of(whole, name).read_text().splitlines()]
        assert lines and all(line["model_id"] == "llava-tiny" and isinstance(line["text"], str) for line in lines), name
    scores = read_score_table(whole / "metrics").rows["llava-tiny"]
    assert set(scores) == TASKS - {"MM-Vet"}, "MM-Vet is graded elsewhere"
    assert scores["LLaVA-Bench"] == scores["LLaVA-COCO"] == 75
    metric = json.loads((whole / "metrics" / "llava-tiny" / "MME.json").read_text())
    assert metric["n"] == 2 * len(MME_SUBTASKS) and metric["generator"] == "llava-tiny"


def test_right_answers_score_in_full(tiny_checkpoint, data, tmp_path, monkeypatch):
    """The chain from the question files to the metric files, with a model that knows."""

    class Knowing:
        equal_lengths = False

        def asking(self, settings):
            return self

        def prompt(self, question):
            return Prompt(question, lengths=(question.position,))

        def load_images(self, question):
            return None

        def answer(self, prompts, images):
            return [self.known(prompt.question) for prompt in prompts]

        def known(self, question):
            known = RIGHT.get(Path(question.where.partition(":")[0]).name)
            return "?" if known is None else known[question.position]

    monkeypatch.setattr(LlavaEngine, "load", lambda *_, **__: Knowing())
    assert suite.main(command(tiny_checkpoint, data, tmp_path, "--benchmarks", "all")) == 0
    scores = read_score_table(tmp_path / "metrics").rows["llava-tiny"]
    assert len(scores) == len(RIGHT) and scores.pop("MME") == 2000
    assert all(score == 100 for score in scores.values()), scores


def test_a_server_is_taken_through_the_suite(data, tmp_path):
    with judge_endpoint() as stub:
        stub.reply = lambda body: (200, "Yes")
        asked = ["--engine", "server", "--server-url", stub.url, "--server-model", "judge-1", "--benchmarks", "pope"]
        assert suite.main([*asked, "--data", str(data), "--output", str(tmp_path)]) == 0
        assert {len(body["messages"][0]["content"]) for body in stub.bodies} == {2}, "an image and a text"
    metric = json.loads((tmp_path / "metrics" / "judge-1" / "POPE.json").read_text())
    assert metric["generator"] == "judge-1" and metric["n"] == len(stub.bodies)


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


def test_a_script_by_two_processes_gives_the_same_file(repository, tiny_checkpoint, data, whole, tmp_path):
    done = run_script(repository, "pope", tiny_checkpoint, data, tmp_path / "out", NUM_PROCESSES="2", BATCH_SIZE="1")
    assert done.returncode == 0, done.stderr
    assert "mean F1 66.67" in done.stdout
    assert answers_of(tmp_path / "out", "pope").read_bytes() == answers_of(whole, "pope").read_bytes()
    parts = list((tmp_path / "out/pope/answers/work").glob("*/chunk-*.jsonl"))
    assert len(parts) == 2 and all(len(part.read_text().splitlines()) == 3 for part in parts)
    metric = (tmp_path / "out/metrics/llava-tiny/POPE.json").read_text()
    assert metric == (whole / "metrics/llava-tiny/POPE.json").read_text()


def test_a_killed_script_resumes_and_writes_the_same_file(repository, tiny_checkpoint, data, whole, tmp_path):
    words, environment = script(repository, "mme", tiny_checkpoint, data, tmp_path / "out", BATCH_SIZE="1")
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    chunks = (tmp_path / "out/MME").rglob
    until(lambda: sum(part.read_bytes().count(b"\n") for part in chunks("chunk-*.jsonl")) >= 3, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not answers_of(tmp_path / "out", "mme").exists()
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
        assert empty.returncode != 0 and "set CKPT=" in empty.stderr and empty.stderr.count("\n") == 1
        variables = {"CKPT": "a model", "PYTHON": "echo", "SPLIT": "s", "JUDGE_MODEL": "j", "MODEL_BASE": "b"}
        variables["PATH"] = os.environ["PATH"]
        reported = subprocess.run(
            ["bash", str(path), "--seed", "3"], capture_output=True, text=True, env=variables
        ).stdout
        assert f"-m llava.eval.suite --benchmarks={name} --model-path=a model --data=playground/data/eval" in reported
        assert "--split=s" in reported and reported.endswith("--judge-model=j --seed 3\n")
        assert "--conv-mode" not in reported, "the checkpoint decides"


def test_another_split_leaves_the_metric_file_of_the_first(tiny_checkpoint, own_data):
    home = own_data / "gqa"
    asked = command(tiny_checkpoint, own_data, own_data, "--benchmarks", "gqa")
    assert suite.main(asked) == 0
    metrics = own_data / "metrics" / "llava-tiny"
    before = {path.name: path.read_bytes() for path in metrics.iterdir()}
    shutil.copy(home / "llava_gqa_testdev_balanced.jsonl", home / "llava_gqa_val_balanced.jsonl")
    shutil.copy(home / "data/testdev_balanced_questions.json", home / "data/val_balanced_questions.json")
    assert suite.main([*asked, "--split", "llava_gqa_val_balanced"]) == 0
    assert before == {path.name: path.read_bytes() for path in metrics.iterdir() if "val" not in path.name}
    other = json.loads((metrics / "GQA-llava_gqa_val_balanced.json").read_text())
    assert other["task"] == "GQA-llava_gqa_val_balanced" and other["n"] == 3
    assert set(read_score_table(metrics).columns) == {"GQA", "GQA-llava_gqa_val_balanced"}
    assert suite.main([*asked, "--split", "llava_gqa_testdev_balanced"]) == 0
    assert len(list(metrics.iterdir())) == 4, "the default by name is the default"


def test_answers_of_another_model_are_kept_without_overwrite(tiny_checkpoint, data, whole, tmp_path, capsys):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    asked = command(tiny_checkpoint, data, output, "--benchmarks", "pope", "--conv-mode", "llava_v0")
    before = answers_of(output, "pope").read_bytes()
    with pytest.raises(InputError, match=r"made by another run \(differs in: conv_mode\)"):
        suite.main(asked)
    assert answers_of(output, "pope").read_bytes() == before
    assert suite.main([*asked, "--overwrite"]) == 0


def test_improvement_against_another_model_is_over_the_papers_tasks(tiny_checkpoint, data, whole, tmp_path, capsys):
    def metric(task, score):
        content = {
            "metric": {"POPE": "mean_f1", "MME": "perception", "GQA": "accuracy"}[task],
            "score": score,
            "task": task,
            "generator": "ew",
        }
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
    assert suite.main(asked) == 0
    assert "-16.67 (POPE -16.67%, MME scores 0 in the baseline; without" in capsys.readouterr().out


def test_grades_of_replaced_answers_are_refused(tiny_checkpoint, data, whole, tmp_path, capsys):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    file = output / "mm-vet/results/llava-tiny_gpt-4-grade-1runs.json"
    file.write_text(json.dumps({f"v1_{n}": {"score": [0.5]} for n in range(2)}))
    graded = output / "mm-vet/results/llava-tiny.json"
    graded.write_text(json.dumps({"v1_0": "an earlier", "v1_1": "answer"}))
    asked = command(tiny_checkpoint, data, output, "--benchmarks", "mmvet")
    for _ in range(2):  # the same again: the file that was graded must not be replaced meanwhile
        assert suite.main(asked) == 2
        assert f"error: {file}: grades other answers than" in capsys.readouterr().err
    file.unlink()
    assert suite.main(asked) == 0 and "earlier" not in graded.read_text()


def test_grades_of_mmvet_are_scored_once_they_are_there(tiny_checkpoint, data, whole, tmp_path, no_model):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    grades = {f"v1_{n}": {"model": ["gpt-4"], "content": ["x"], "score": [0.5 + 0.2 * n]} for n in range(2)}
    (output / "mm-vet/results/llava-tiny_gpt-4-0613-grade-1runs.json").write_text(json.dumps(grades))
    (output / "mm-vet/results/llava-tiny_b_gpt-4-0613-grade-1runs.json").write_text("{}")
    assert suite.main(command(tiny_checkpoint, data, output, "--benchmarks", "mmvet")) == 0
    assert read_score_table(output / "metrics").rows["llava-tiny"]["MM-Vet"] == pytest.approx(60)


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
