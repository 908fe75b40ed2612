"""`python -m perf.gpu`, without a GPU."""

import json
import os
from pathlib import Path

import pytest
import torch
from forked import run_forked

REPOSITORY = Path(__file__).parents[2]
TRAINING = {"layers", "seconds", "tokens_per_second", "tflops", "mfu", "peak_gib"}
KINDS = [kind + how for how in ("", "+checkpointing") for kind in ("unpadded", "padded", "plain")]
KINDS += ["unpadded+compile"]


def call(*arguments):
    return run_forked(["-m", "perf.gpu", *arguments], os.environ, REPOSITORY)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    file = tmp_path_factory.mktemp("gpu") / "gpu.json"
    done = call("--small", "--json", str(file))
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()) | {"table": done.stdout}


def test_each_training_row_has_its_figures(found):
    for kind in KINDS:
        section = found[f"training {kind}"]
        assert [set(row) for row in section["measured"]] == [TRAINING] * 2
        assert section["extrapolated"]["layers"] == 3
    assert found["as_deep_as_fits unpadded"]["measured"][0]["layers"] == 3


def test_each_section_has_figures_or_says_why_not(found):
    assert found["environment"]["card"] == "CPU" and found["environment"]["transformers"] == "4.31.0"
    assert found["matrix_product"]["tflops"] > 0
    assert any("attention" in name for name in found["kernels"]["unpadded"]["attention"])
    assert (found["waits"]["per_micro_batch"], found["waits"]["per_step_beside_them"]) == (0, 2)
    assert found["generation"]["prefill_tokens_per_second"] > 0 < found["generation"]["decode_tokens_per_second"]
    assert found["precision"]["unpadded float32"]["gradient_relative_error"] < 1e-5
    assert found["precision"]["unpadded"]["gradient_cosine"] > 0.9
    assert not [name for name, section in found.items() if name != "table" and "not_measured" in section]


def test_the_table_has_a_line_for_each_section(found):
    for name in set(found) - {"table"}:
        assert name[:36] in found["table"], name


def test_sections_that_fail_or_come_too_late_say_so(found):
    from perf.gpu import measure

    def fails():
        raise RuntimeError("out of memory")

    assert measure(fails, float("inf")) == {"not_measured": "RuntimeError: out of memory"}
    assert "out of time" in measure(fails, 0.0)["not_measured"]


def test_the_needed_work_counts_no_padding():
    from perf.gpu_cases import Shape

    shape = Shape(hidden=2, intermediate=3, vocabulary=5, lengths=(4, 1), supervised=1)
    layer = (4 * 4 + 3 * 6) * 5 + 2 * 17  # matrices times tokens; causal scores and their sums
    assert shape.step_flops(2) == 6 * (2 * layer + 2 * 5 * 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_command_is_refused_in_one_line():
    done = call()
    assert done.returncode == 2 and "no GPU" in done.stderr and "Traceback" not in done.stderr
