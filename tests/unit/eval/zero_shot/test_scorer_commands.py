"""The scorers' commands: LLaVA's addresses and flags, metric files, one line and exit code 2 for bad input."""

import json
import subprocess
import sys

import pytest
from waiting import PATIENCE

from eval.score_tables import read_score_table
from eval.zero_shot import gqa, mmbench, mme, mmvet, pope, scienceqa, seed, textvqa, vizwiz, vqav2
from visatb.errors import InputError

ASK = "What?\nAnswer the question using a single word or phrase."


def ten(text):
    return [{"answer": text, "answer_id": n} for n in range(10)]


def benchmark(name, bench):
    """(scorer, flags) of a benchmark of one question, answered rightly; MME apart."""
    right, prompt = {"vqav2": "cat", "vizwiz": "cat", "textvqa": "cat", "gqa": "cat", "pope": "Yes"}.get(name, "A"), ASK
    given = str(bench.answers([("1", right, prompt)]))
    if name == "vqav2":
        truth = bench.json("t.json", {"annotations": [{"question_id": 1, "answers": ten("cat")}]})
        flags = ["--annotation-file", truth]
    elif name == "vizwiz":
        asked = bench.lines("q.jsonl", [{"question_id": 1, "image": "a.jpg", "text": ASK}])
        flags = ["--question-file", asked, "--annotation-file"]
        flags.append(bench.json("t.json", [{"image": "a.jpg", "answers": ten("cat")}]))
    elif name == "textvqa":
        record = {"image_id": "1", "question": "What?", "answers": ["cat"] * 10}
        flags = ["--annotation-file", bench.json("t.json", {"data": [record]})]
    elif name == "gqa":
        flags = ["--annotation-file", bench.json("t.json", {"1": {"answer": "cat", "isBalanced": True}})]
    elif name == "pope":
        row = {"question_id": 1, "image": "a.jpg", "text": "What?"}
        bench.lines("coco/coco_pope_random.json", [row | {"label": "yes"}])
        asked = bench.lines("q.jsonl", [row | {"text": ASK, "category": "random"}])
        flags = ["--annotation-dir", bench.folder / "coco", "--question-file", asked]
    elif name == "scienceqa":
        problem = {"choices": ["x", "y"], "answer": 0, "image": "image.png", "hint": "", "grade": "grade1"}
        bench.json("sqa/problems.json", {"1": problem})
        bench.json("sqa/pid_splits.json", {"test": ["1"]})
        flags = ["--base-dir", bench.folder / "sqa"]
    elif name == "seed":
        row = {"question_id": "1", "question_type_id": 1, "data_type": "image", "answer": "A"}
        flags = ["--annotation-file", bench.json("t.json", {"question_type": {"x": 1}, "questions": [row]})]
    else:
        table = bench.folder / "t.tsv"
        table.write_text("index\tquestion\tA\tB\tanswer\n1\tWhat?\tcat\tdog\tA\n")
        flags = ["--annotation-file", table]
    scorer = {m.__name__.rpartition(".")[2]: m for m in (gqa, mmbench, pope, scienceqa, seed, textvqa, vizwiz, vqav2)}
    return scorer[name], ["--answers-file", given, *map(str, flags)]


TASKS = {
    "vqav2": "VQAv2",
    "vizwiz": "VizWiz",
    "textvqa": "TextVQA",
    "gqa": "GQA",
    "pope": "POPE",
    "scienceqa": "SQA",
    "seed": "SEED",
    "mmbench": "MMBench",
}


@pytest.mark.parametrize("name", TASKS)
def test_metric_files_are_those_that_overall_reads(name, bench, capsys):
    scorer, flags = benchmark(name, bench)
    output = bench.folder / "metrics" / "my-model" / f"{TASKS[name]}.json"
    per_record = bench.folder / "per.jsonl"
    assert scorer.main([*flags, "--output", str(output), "--per-record", str(per_record)]) == 0
    written = json.loads(output.read_text())
    assert list(written) == ["metric", "score", "n", "malformed", "omitted", "records", "task", "generator", "answers",
                             "details"]  # fmt: skip
    assert written["score"] == 100 and written["n"] == 1 and written["malformed"] == 0
    assert (written["task"], written["generator"]) == (TASKS[name], "my-model")
    assert read_score_table(bench.folder / "metrics").rows == {"my-model": {TASKS[name]: 100}}
    line = json.loads(per_record.read_text())
    assert line["question_id"] == "1" and line["score"] == 1 and capsys.readouterr().out


@pytest.mark.parametrize("name", TASKS)
def test_bad_input_is_refused_in_one_line(name, bench):
    scorer, flags = benchmark(name, bench)
    output = bench.folder / "metric.json"
    answers = bench.folder / "answers.jsonl"
    whole = answers.read_text()
    for text, message in [
        ("", "holds no line"),
        ("{}\n", "question_id must be"),
        ('{"question_id": "1"}\n', "must have text"),
        ('{"question_id": "1", "text": null}\n', "must have text"),
        ('{"question_id": "1", "text"', "broken JSON"),
        ("[1]\n", "expected JSON Lines (one object per line), got a JSON list"),
        ("1\n", "must be a JSON object"),
        (whole * 2, "is answered twice"),
        (whole.replace('"1"', '"2"'), "is no question"),
    ]:
        answers.write_text(text)
        with pytest.raises(InputError) as refused:
            scorer.main([*flags, "--output", str(output)])
        assert message in str(refused.value) and "\n" not in str(refused.value) and str(answers) in str(refused.value)
        assert not output.exists()


@pytest.mark.parametrize("name", TASKS)
def test_missing_annotations_and_clashing_outputs_are_refused(name, bench):
    scorer, flags = benchmark(name, bench)
    for n in range(3, len(flags), 2):
        with pytest.raises(InputError, match="absent"):
            scorer.main([*flags[:n], str(bench.folder / "absent"), *flags[n + 1 :]])
    with pytest.raises(InputError, match="given twice"):
        scorer.main([*flags, "--output", flags[1]])


def test_mme_and_mmvet_refuse_what_is_missing(bench):
    given = str(bench.answers([("existence/1.jpg", "Yes", ASK)]))
    with pytest.raises(InputError, match="--annotation-dir must name"):
        mme.main(["--answers-file", given])
    with pytest.raises(InputError, match="has no question file"):
        mme.main(["--answers-file", given, "--annotation-dir", str(bench.folder / "absent")])
    with pytest.raises(InputError, match="no such file"):
        mmvet.main(["--grade-file", str(bench.folder / "absent")])
    with pytest.raises(InputError, match="leaves nothing to do"):
        mmbench.main(["--answers-file", given, "--annotation-file", given, "--no-score"])


@pytest.mark.parametrize(
    ("module", "name"),
    [("eval_textvqa", "textvqa"), ("eval_pope", "pope"), ("eval_science_qa", "scienceqa"), ("eval_gqa", "gqa")],
)
def test_llavas_addresses_and_flags_go_on_working(module, name, bench):
    _, flags = benchmark(name, bench)
    flags[0] = "--result-file"
    done = subprocess.run(
        [sys.executable, "-m", f"llava.eval.{module}", *flags], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "100.0" in done.stdout
    flags[1] = "absent.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", f"llava.eval.{module}", *flags], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_scorers_need_no_torch():
    names = ", ".join(f"eval.zero_shot.{name}" for name in [*TASKS, "mme", "mmvet", "llavabench", "submissions"])
    code = f"import sys, {names}, llava.eval.m4c_evaluator; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 0
