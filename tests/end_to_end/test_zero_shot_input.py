"""What the zero-shot suite says to data that is missing, broken or does not fit, before it asks anything."""

import json
import shutil
import subprocess

import pytest
from suite_calls import answers_of, command, run_script, script
from waiting import PATIENCE

from eval.score_tables import read_score_table
from eval.zero_shot.table import BENCHMARKS
from llava.eval import suite
from visatb.errors import InputError


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
def test_missing_data_is_named_with_its_source(tiny_checkpoint, own_data, no_model, capsys, name, gone, source):
    home = own_data / BENCHMARKS[name].folders[0]
    (home / gone).rename(own_data / "elsewhere")
    with pytest.raises(InputError) as refused:
        suite.main(command(tiny_checkpoint, own_data, own_data, "--benchmarks", name))
    assert str(refused.value) == f"{name}: missing in {home}: {gone}. Put it there (sources are listed above)."
    title, address, path = capsys.readouterr().out.splitlines()
    assert title == f"missing, to be put under {own_data} (see docs/evaluation.md):"
    assert source in address and path == f"    {home.name}/{gone}  [{name}]"


def test_a_script_refuses_missing_data_in_one_line(repository, tiny_checkpoint, own_data):
    shutil.rmtree(own_data / "pope" / "val2014")
    done = run_script(repository, "pope", tiny_checkpoint, own_data, own_data)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "val2014.zip" in done.stdout
    assert done.stderr.startswith("error: pope: missing in ") and "val2014" in done.stderr


def test_bad_tables_are_refused_early_and_damaged_images_late(tiny_checkpoint, own_data, capsys):
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
    (reported,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "row 4 (index 8): image" in reported and "1 of 4 questions have no answer" in reported
    assert not (own_data / "metrics/llava-tiny/MMBench.json").exists()


def test_a_benchmark_that_fails_is_reported_and_the_others_continue(tiny_checkpoint, own_data, capsys):
    annotations = own_data / "textvqa" / "TextVQA_0.5.1_val.json"
    content = json.loads(annotations.read_text())
    content["data"].append(content["data"][0] | {"image_id": "another"})
    annotations.write_text(json.dumps(content))
    (own_data / "seed_bench" / "llava-seed-bench.jsonl").write_text("[]\n")
    shutil.rmtree(own_data / "gqa")
    assert suite.main(command(tiny_checkpoint, own_data, own_data, "--benchmarks", "textvqa,seed,gqa,sqa")) == 2
    printed = capsys.readouterr()
    reported = [line for line in printed.err.splitlines() if line.startswith("error")]
    assert (
        len(reported) == 3
        and "1 of 4 questions" in reported[0]
        and "llava-seed-bench.jsonl: " in reported[1]
        and "gqa: missing" in reported[2]
    )
    assert not answers_of(own_data, "textvqa").exists() and answers_of(own_data, "sqa").exists()
    assert set(read_score_table(own_data / "metrics").columns) == {"SQA"}
    assert [word for word in printed.out.split() if word in ("scored", "failed", "missing")] == [
        *("failed", "scored", "failed", "missing")
    ]


def _label_of_another(home):
    labels = home / "coco" / "coco_pope_random.json"
    labels.write_text("".join(reversed(labels.read_text().splitlines(keepends=True))))


def _no_subtask(home):
    (home / "MME_Benchmark_release_version" / "count" / "0001.txt").unlink()


def _no_rule(home):
    (home / "rule.json").write_text(json.dumps({"other": {"role": "x", "prompt": "y"}}))


def _question_too_many(home):
    questions = home / "llava_gqa_testdev_balanced.jsonl"
    record = json.loads(questions.read_text().splitlines()[0])
    questions.write_text(questions.read_text() + json.dumps(record | {"question_id": "9"}) + "\n")


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("pope", _label_of_another, "question_id 0: is .* but the label is of"),
        ("mme", _no_subtask, "count: has no question file"),
        ("llavacoco_review", _no_rule, "category"),
        ("gqa", _question_too_many, "llava_gqa_testdev_balanced.jsonl line 4: question_id '9' is no question of"),
    ],
)
def test_annotations_that_do_not_fit_are_reported_before_asking(
    tiny_checkpoint, own_data, tmp_path, no_model, name, spoil, message
):
    spoil(own_data / BENCHMARKS[name].folders[0])
    asked = ["--benchmarks", name, "--judge-model", "any", "--judge-url", "http://127.0.0.1:9/v1"]
    with pytest.raises(InputError, match=f"{name}: nothing was asked, for it could not be scored: .*{message}"):
        suite.main(command(tiny_checkpoint, own_data, tmp_path / "out", *asked))
    assert not (tmp_path / "out").exists()


def test_processes_do_not_ask_what_could_not_be_scored(repository, tiny_checkpoint, own_data, tmp_path):
    _label_of_another(own_data / "pope")
    words, environment = script(repository, "mme", tiny_checkpoint, own_data, tmp_path / "out", NUM_PROCESSES="2")
    words += ["--benchmarks", "pope,textvqa"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.returncode == 2 and "error: pope: nothing was asked" in done.stderr, done.stderr
    assert answers_of(tmp_path / "out", "textvqa").exists() and not (tmp_path / "out" / "pope").exists()


def test_all_is_what_is_there(tiny_checkpoint, own_data, tmp_path, capsys):
    for folder in own_data.iterdir():
        if folder.name != "vizwiz":
            shutil.rmtree(folder)
    assert suite.main(command(tiny_checkpoint, own_data, own_data)) == 0
    printed = capsys.readouterr().out
    lines, table = printed[: printed.index("\nZero-shot")].splitlines(), printed[printed.index("\nZero-shot") :]
    listed = lines[: next(n for n, line in enumerate(lines) if n and not line.startswith(" "))]
    assert table.count(" missing") == len(BENCHMARKS) - 2
    assert len(listed) == len(set(listed)), "a source is named once"
    assert max(len(line) for line in listed[1:]) <= 120  # the first has the folder's path
    assert "    coco2014_val_qa_eval/rule.json  [llavacoco_review]" in listed
    assert "    llava-bench-in-the-wild/images  [llavabench, llavabench_review]" in listed
    (tmp_path / "empty").mkdir()
    assert suite.main(command(tiny_checkpoint, tmp_path / "empty", tmp_path / "empty")) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmarks", "pop"], "--benchmarks must name some of all, textvqa"),
        (["--benchmarks", "pope", "--split", "x"], "--split is for one of mmbench"),
        (["--benchmarks", "all", "--split", "x"], "--split is for one of"),
        (["--benchmarks", "gqa", "--split", "../x"], "--split must be the name"),
        (["--data", "nowhere"], "no such folder"),
        (["--baseline", "metrics/of/nobody"], "metrics/of/nobody: no such file"),
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
