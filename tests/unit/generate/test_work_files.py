"""Answers on the disk survive kills and are never mistaken for another run's."""

import json
import multiprocessing

import pytest

from llava.generate import work as work_module
from llava.generate.work import Answer, Work
from visatb.errors import InputError

ANSWERS = [Answer(0, text="näh\n"), Answer(1, failed="out of memory"), Answer(2, bad_image="gone"), Answer(3, text="")]


def work_of(folder, **made_from):
    return Work(folder / "val_m.json", {"model": "a", "questions": "q"} | made_from)


def test_answers_are_read_back_as_written(tmp_path):
    work = work_of(tmp_path)
    assert work.answers() == {}
    with work.writing("one") as writer:
        writer.append(ANSWERS[:2])
        assert len(work.answers()) == 2, "a batch must be on the disk before the next one"
        writer.append(ANSWERS[2:])
    assert work.answers() == {answer.position: answer for answer in ANSWERS}
    assert not work.final.exists()


def test_every_batch_is_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed = []
    with work_of(tmp_path).writing("one") as writer:
        monkeypatch.setattr(work_module.os, "fsync", flushed.append)
        writer.append(ANSWERS[:2])
        writer.append(ANSWERS[2:])
    assert len(flushed) == 2


def test_a_line_torn_at_any_byte_is_dropped_and_the_others_stay(tmp_path):
    work = work_of(tmp_path)
    with work.writing("one") as writer:
        writer.append(ANSWERS)
    part = work.folder / "one.jsonl"
    whole = part.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        part.write_bytes(whole[:cut])
        assert sorted(work.answers()) == [0, 1, 2], f"cut at byte {cut}"
        with work.writing("one") as writer:
            writer.append([ANSWERS[3]])
        assert part.read_bytes() == whole


def test_damaged_lines_are_asked_again_instead_of_ending_the_run(tmp_path):
    work = work_of(tmp_path)
    lines = [
        b'{"position": 0, "text": "good"}',
        b'{"position": 1, "te\x00\xff',
        b"[1]",
        b'{"position": "2", "text": "x"}',
        b'{"position": 3}',
        b'{"position": 4, "text": 5}',
        b'{"position": 5, "text": "x", "other": 1}',
    ]
    work.folder.mkdir(parents=True)
    (work.folder / "p.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert list(work.answers()) == [0]


def test_a_text_wins_over_an_earlier_or_later_failure(tmp_path):
    work = work_of(tmp_path)
    for part, answers in {"a": [Answer(0, failed="x"), Answer(1, text="t")], "b": [Answer(0, text="u")]}.items():
        with work.writing(part) as writer:
            writer.append(answers)
    with work.writing("c") as writer:
        writer.append([Answer(1, failed="y")])
    assert {n: a.text for n, a in work.answers().items()} == {0: "u", 1: "t"}


def test_two_processes_do_not_write_one_part(tmp_path):
    work = work_of(tmp_path)
    with (
        work.writing("one"),
        pytest.raises(InputError, match="another process"),
        work_of(tmp_path).writing("one"),
    ):
        pass
    with work.writing("one"):
        pass


def test_complete_means_this_content_and_this_file(tmp_path):
    work = work_of(tmp_path)
    assert not work.complete()
    work.finish("[1]", {"records": 1})
    assert work.complete()
    assert work_of(tmp_path).complete()
    assert not work_of(tmp_path, model="b").complete(), "another model of the same name"
    work.final.write_text("[2]")
    assert not work.complete(), "the file was changed by somebody"


@pytest.mark.parametrize("change", [{"model": "b"}, {"questions": "r"}, {"temperature": 1}])
def test_a_final_file_made_differently_is_refused_and_the_difference_named(tmp_path, change):
    work_of(tmp_path).finish("[1]", {})
    other = work_of(tmp_path, **change)
    with pytest.raises(InputError, match=rf"val_m.json: exists and .*differs in: {next(iter(change))}"):
        other.refuse_foreign("Move it away.")
    work_of(tmp_path).refuse_foreign("Move it away.")


def test_a_final_file_of_unknown_origin_is_refused(tmp_path):
    (tmp_path / "val_m.json").write_text("[]")
    with pytest.raises(InputError, match="something else"):
        work_of(tmp_path).refuse_foreign("Move it away.")


def test_work_is_found_by_content_whatever_its_order(tmp_path):
    one = Work(tmp_path / "f.json", {"a": 1, "b": 2})
    two = Work(tmp_path / "f.json", {"b": 2, "a": 1})
    assert one.folder == two.folder
    assert one.folder != Work(tmp_path / "f.json", {"a": 1, "b": 3}).folder


def _finish(folder, n):
    Work(folder / "f.json", {"a": 1}).finish(json.dumps(list(range(2000))), {"n": n})


def test_finishing_at_once_leaves_one_whole_file(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_finish, args=(tmp_path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(json.loads((tmp_path / "f.json").read_text())) == 2000
    assert Work(tmp_path / "f.json", {"a": 1}).complete()
    assert not list(tmp_path.glob(".*.part"))
