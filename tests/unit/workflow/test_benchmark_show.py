"""What `visatb show` prints of a run before it starts: sizes, steps, cost, warnings."""

import json
import re
from dataclasses import replace

import pytest
import yaml

from scripts_visatb.workflow import cost as show
from scripts_visatb.workflow.measure_costs import cost_of, measures_of, parameters_of
from visatb.benchmark import load_benchmark
from visatb.cli import run
from visatb.errors import InputError
from visatb.measure_section import Measure


def load(repository, name: str):
    return load_benchmark(repository / f"scripts_visatb/benchmarks/{name}.yaml")


def write_mix(folder, sizes: dict[str, int], **changes):
    """A benchmark of question tasks whose training files hold that many records."""
    tasks = []
    for name, size in sizes.items():
        records = [{"id": f"{name}-{n}", "task": name} for n in range(size)]
        (folder / f"{name}.json").write_text(json.dumps(records))
        files = {split: f"{name}.json" for split in ("train", "val", "test")}
        tasks.append({"name": name, "metric": "exact_match", "files": files})
    content = {"name": "mix", "data_folder": str(folder), "image_folder": str(folder), "mini_rate": 0.25}
    content |= {"tasks": tasks, "training": {"environment": {"PER_DEVICE_TRAIN_BATCH_SIZE": 8}}}
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return load_benchmark(path)


def test_every_benchmark_in_the_folder_is_valid_and_named_as_its_file(repository):
    files = sorted((repository / "scripts_visatb/benchmarks").glob("*.yaml"))
    assert [load_benchmark(file).name for file in files] == [file.stem for file in files]
    assert {file.stem for file in files} >= {"academic", "chat", "m3it", "demo"}


def test_cost_of_m3it_is_the_papers_0_40_of_the_final_run(repository):
    m3it = load(repository, "m3it")
    sizes, counted = show.task_sizes(m3it, "train")
    assert not counted and len(sizes) == 17 and 1.1e6 < sum(sizes.values()) < 1.25e6
    found = {cost.name: cost for cost in show.costs(m3it, sizes, 128, 1)}
    assert show.formula(m3it)[1] == pytest.approx(0.25 + 5 / 32)
    preparation = [found[name] for name in show.preparation_models(m3it)]
    assert len(preparation) == 6
    assert sum(cost.share for cost in preparation) == pytest.approx(show.formula(m3it)[1], abs=0.005)


def test_steps_of_academic_are_the_papers_3700_and_its_minis_more_than_100(repository):
    academic = load(repository, "academic")
    sizes, _ = show.task_sizes(academic, "train")
    found = {cost.name: cost for cost in show.costs(academic, sizes, 128, 1)}
    assert found["VisATB"].steps == 3704 and found["VisATB"].share == 1.0
    assert found["mini"].steps == 116
    warned = show.guidance(academic, sizes, found.values(), 128, 1)
    assert len(warned) == 1 and "fewer than 1,000 samples: ChartQA" in warned[0]


def test_simpler_form_costs_one_run_and_a_mini_share(repository):
    chat = load(repository, "chat")
    sizes, _ = show.task_sizes(chat, "train")
    found = {cost.name: cost for cost in show.costs(chat, sizes, 128, 3)}
    assert "base" not in found and found["VisATB"].samples == 3 * 158_000
    share = sum(found[name].share for name in show.preparation_models(chat) if name in found)
    assert share == pytest.approx(show.formula(chat)[1], abs=1e-3)


def test_sizes_are_counted_in_the_files_that_are_there(tmp_path):
    mix = write_mix(tmp_path, {"A": 40, "B": 80})
    assert show.task_sizes(mix, "train") == ({"A": 40, "B": 80}, True)
    text = show.describe(mix, gpus=0, speed=2.0, log=None)
    assert "120 training samples (counted)" in text and "steps of 8 samples on the CPU" in text
    rows = {line.split(" (")[0]: line.split() for line in text.splitlines() if " (" in line and "," not in line[:12]}
    assert rows["plus_mini/A"][2:] == ["60", "8", "0.500", "0.01", "A-plus-mini"]
    assert "all minis together train for 4 steps" in text and "large subsets of no more than 10,000" in text


def test_a_large_subset_that_is_large_but_trains_for_few_steps_is_reported(tmp_path):
    mix = write_mix(tmp_path, {"A": 24_000, "B": 30_000}, large_rate=0.5)

    def warned(batch: int) -> list[str]:
        sizes, _ = show.task_sizes(mix, "train")
        return show.guidance(mix, sizes, show.costs(mix, sizes, batch, 1), batch, 1)

    assert warned(64) == []
    short = "large subsets that train for no more than 100 steps: A. Raise large_rate or add data."
    assert warned(120) == [short]  # A: 100 steps, B: 125


def test_the_file_of_the_tutorial_keeps_the_guidance(repository, tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (repository / "docs/tutorial.md").read_text(), re.DOTALL)
    (tmp_path / "my_mix.yaml").write_text(text)
    shown = show.describe(load_benchmark(tmp_path / "my_mix.yaml"), 8, None, None)
    assert "my-mix: 3 tasks" in shown and "guidance not met" not in shown


def test_gpu_hours_come_from_a_rate_or_from_the_log_of_a_timed_run(tmp_path):
    mix = write_mix(tmp_path, {"A": 36_000, "B": 36_000})
    assert "VisATB: 1 training(s), 1.00 x the final run, 16.00 GPU-hours" in show.describe(mix, 8, 10.0, None)
    lines = [{"step": step, "elapsed_s": 30.0 + 6.4 * step} for step in (1, 11, 21)]
    (tmp_path / "train_log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert show.samples_per_second(tmp_path, batch=64) == pytest.approx(10.0)
    assert "16.00 GPU-hours" in show.describe(mix, 8, None, tmp_path)
    (tmp_path / "train_log.jsonl").write_text(json.dumps(lines[0]))
    with pytest.raises(InputError, match="needs two lines with step and elapsed_s"):
        show.samples_per_second(tmp_path, batch=64)


def test_disk_is_printed_for_a_base_whose_name_holds_its_size(tmp_path, repository):
    assert parameters_of("lmsys/vicuna-7b-v1.5") == 7e9 and parameters_of("runs/demo/base") is None
    text = show.describe(load(repository, "academic"), 8, None, None)
    assert "8 preparation models of 14 GB (weights alone) = 112 GB" in text
    assert "does not hold its size" in show.describe(write_mix(tmp_path, {"A": 9, "B": 9}), 1, None, None)


def test_measures_stand_side_by_side_with_cost_and_disk(tmp_path, repository):
    academic = load(repository, "academic")
    sizes, _ = show.task_sizes(academic, "train")
    found = {measure.kind: cost_of(academic, measure, sizes, 1) for measure in measures_of(academic)}
    assert {kind: cost.trainings for kind, cost in found.items()} == {"full": 8, "short": 8, "lora": 8, "gradient": 1}
    minis = sum(round(sizes[task.name] / 32) for task in academic.tasks)
    assert found["short"].samples == sum(10_000 - round(sizes[t.name] / 32) + minis for t in academic.measured) + minis
    assert found["gradient"].samples == minis + 2 * 512 * 7
    assert found["full"].disk == 8 * 14e9
    # Of the 32 layers of a 7B LLaMA: r (in + out) of q, k, v, o and gate, up, down, in 2 bytes.
    assert found["lora"].disk == 8 * 2 * 128 * 32 * (4 * 8192 + 3 * (4096 + 11008))
    small = {"BASE_MODEL_PATH": "tiny-3.5b", "PRETRAIN_MM_MLP_ADAPTER": "p.bin"}
    proxy = replace(academic, measure=Measure("proxy", environment=small))
    assert cost_of(proxy, proxy.measure, sizes, 1).share == pytest.approx(found["full"].share / 2)
    by_gradient = replace(academic, measure=Measure("gradient"), ablations=())
    assert "preparation: 1 training(s), 0.03 x the final run" in show.describe(by_gradient, 8, None, None)
    assert [measure.kind for measure in measures_of(proxy)] == ["full", "short", "lora", "gradient", "proxy"]
    lines = show.describe(proxy, 8, 40, None).splitlines()
    (line,) = [line for line in lines if line.startswith("proxy (BASE_MODEL_PATH tiny-3.5b")]
    assert " *" in line and line.endswith("GB")
    assert "the paper's R_large" not in "\n".join(lines)


def test_short_subsets_below_the_papers_guidance_are_reported(repository):
    academic = replace(load(repository, "academic"), measure=Measure("short", 9000))
    sizes, _ = show.task_sizes(academic, "train")
    warned = show.guidance(academic, sizes, show.costs(academic, sizes, 128, 1), 128, 1)
    assert any("large subsets of no more than 10,000 samples: ShareGPT4V" in sentence for sentence in warned)


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchmark", *words])
    with pytest.raises(SystemExit) as end:
        run(show.main)
    return end.value.code


def test_the_command_shows_by_name_and_by_path(monkeypatch, capsys, tmp_path):
    assert command(monkeypatch, "list") == 0
    assert "m3it" in capsys.readouterr().out
    assert command(monkeypatch, "show", "m3it", "--samples-per-second", "40") == 0
    shown = capsys.readouterr()
    assert "17 measured in 5 groups" in shown.out and "annotation files are missing" in shown.err
    write_mix(tmp_path, {"A": 9, "B": 9})
    assert command(monkeypatch, "show", str(tmp_path / "mix.yaml")) == 0
    assert "mix: 2 tasks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nowhere"], "no benchmark of that name (academic"),
        (["show", "academic", "--samples-per-second", "0"], "--samples-per-second must be a number > 0"),
        (["show", "academic", "--from-log", "nowhere"], "nowhere"),
        (["show", "academic", "--gpus", "-1"], "--gpus must be"),
        ([], "command"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(monkeypatch, capsys, words, message):
    assert command(monkeypatch, *words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_file_that_is_absent_and_has_no_size_in_its_name_is_named(tmp_path):
    mix = write_mix(tmp_path, {"A": 9, "B": 9})
    (tmp_path / "B.json").unlink()
    with pytest.raises(InputError, match=r"B.json: is not there, and its name does not hold the size of B"):
        show.task_sizes(mix, "train")
