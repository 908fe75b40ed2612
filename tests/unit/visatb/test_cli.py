"""Command lines: spelling of flags and how commands end."""

import pytest
import torch

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError


def parser():
    made = ArgumentParser(prog="x")
    made.add_argument("--model-path", default="m")
    made.add_argument("--top_p", type=float)
    return made


@pytest.mark.parametrize("given", [["--model-path", "a"], ["--model_path", "a"], ["--model_path=a"]])
def test_flags_are_taken_with_dashes_and_underscores(given):
    assert parser().parse_args(given).model_path == "a"
    assert parser().parse_args(["--top-p", "0.5"]).top_p == 0.5


@pytest.mark.parametrize("given", [["--model"], ["--nonsense", "1"]])
def test_unknown_and_shortened_flags_are_errors(given):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(given)
    assert ended.value.code == 2


def test_values_that_look_like_flags_with_underscores_are_left_alone():
    assert parser().parse_args(["--model_path", "a_b-c"]).model_path == "a_b-c"


def test_mistakes_of_the_user_end_with_2_and_one_line(capsys):
    def main():
        raise InputError("a.json: record 3:\n  broken")

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: a.json: record 3: broken\n"


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, n):
        raise InputError("a.json: record 3: no image")


def test_a_mistake_in_a_data_loader_worker_is_reported_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: list(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: a.json: record 3: no image"


def test_a_full_disk_ends_with_1_and_one_line(capsys):
    def main():
        raise OSError(28, "No space left on device", "out.json")

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 1 and capsys.readouterr().err.count("\n") == 1


def test_defects_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


def test_a_path_that_the_system_refuses_ends_with_2_and_names_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: (tmp_path / "none").stat())
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: No such file or directory\n"
