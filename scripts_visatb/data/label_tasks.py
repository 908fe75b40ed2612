"""Write an annotation file with a task in every record, assigned by rules on image folder and response format.

Rules for LLaVA-1.5's llava_v1_5_mix665k.json (the default) and for ShareGPT4V's mix are in scripts_visatb/data/rules;
a rule file of your own may extend them. Existing task names of records are replaced.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from scripts_visatb.data.stream import RecordWriter, file_sizes, leave_out, writing_records
from scripts_visatb.data.task_rules import Rule, load_rules, questions_of, tasks_of
from visatb.cli import ArgumentParser, run
from visatb.errors import InputError
from visatb.files import refuse_unwritable
from visatb.record_stream import stream_records
from visatb.records import IMAGE_TOKEN, Record, image_names, name_of, omitted_file, record_problems

DEFAULT_RULES = Path(__file__).parent / "rules" / "llava_mix665k.yaml"

_EXAMPLE = """example:
  python -m scripts_visatb.data.label_tasks --input llava_v1_5_mix665k.json --output mix_labelled.json --split-turns
"""


@dataclass
class Tally:
    """Statistics of the labelled records.

    Attributes:
        records, words: by task; words are those of the answers, which are supervised.
        examples: the first question, by task.
        unmatched: number of records that no rule matches; first_unmatched describes the first.
        mixed: number of records with questions of several tasks.
        omitted: number of invalid records that were omitted.
    """

    records: Counter = field(default_factory=Counter)
    words: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unmatched: int = 0
    first_unmatched: str = ""
    mixed: int = 0
    omitted: int = 0

    def add(self, record: Record) -> None:
        """Count a labelled record."""
        questions, task = questions_of(record), record["task"]
        self.records[task] += 1
        self.words[task] += sum(len(question.answer.split()) for question in questions)
        self.examples.setdefault(task, questions[0].text)

    def lines(self) -> list[str]:
        """The table: task, records, share, answer words, share, an example."""
        records, words = self.records.total(), self.words.total()
        width = max(map(len, (*self.records, "task")))
        lines = [f"{'task':{width}}{'records':>10}{'share':>8}{'answer words':>14}{'share':>8}  first question"]
        for task, count in self.records.most_common():
            line = f"{task:{width}}{count:>10}{count / records:>8.1%}{self.words[task]:>14}"
            example = " ".join(self.examples[task].split())
            lines.append(f"{line}{self.words[task] / max(words, 1):>8.1%}  {example[:60]}")
        return [*lines, f"{'':{width}}{records:>10}{'':8}{words:>14}"]


class UniqueIds:
    """Numbers repeated ids: training files need unique ids, LLaVA's mix repeats image ids."""

    def __init__(self):
        self._uses: dict[str | int, int] = {}

    def __call__(self, record: Record) -> Record:
        """The record, with another id if its own is already used."""
        identifier = record.get("id")
        if identifier is None:
            return record
        unique = identifier
        while unique in self._uses:
            self._uses[identifier] += 1
            unique = f"{identifier}-{self._uses[identifier]}"
        self._uses[unique] = 1
        return record if unique == identifier else record | {"id": unique}


def label(record: Record, tasks: list[str], split_turns: bool) -> Iterator[Record]:
    """The record with its task; with `split_turns` one record for each of its tasks.

    Args:
        record: a checked record.
        tasks: the task of each of its questions.
        split_turns: whether questions of several tasks go to separate records with ids `id-task`; otherwise the first
            question determines the task of the whole record.
    """
    different = list(dict.fromkeys(tasks))
    if not split_turns or len(different) == 1:
        yield record | {"task": tasks[0]}
        return
    turns = record["conversations"][len(record["conversations"]) % 2 :]
    for task in different:
        own = [dict(turn) for n, turn in enumerate(turns) if tasks[n // 2] == task]
        _put_images_first(own, len(image_names(record)))
        identifier = {} if record.get("id") is None else {"id": f"{record['id']}-{task}"}
        yield record | identifier | {"task": task, "conversations": own}


def label_file(
    source: Path,
    output: Path,
    rules: list[Rule],
    split_turns: bool = False,
    unmatched: str | None = None,
    omit_broken: bool = False,
) -> Tally:
    """Label the records of a file and write them; on invalid data `output` is unchanged.

    Args:
        source: annotation file; `task` fields are not required.
        output: annotation file to write.
        rules: see `load_rules`.
        split_turns: see `label`.
        unmatched: task for records that no rule matches; None refuses them.
        omit_broken: omit records that training would refuse, and list them beside the output.

    Raises:
        InputError: naming the invalid record; or the number of records that no rule matches, with the first.
    """
    tally, unique = Tally(), UniqueIds()
    listing = omitted_file(output)
    with ExitStack() as stack:
        writer = stack.enter_context(writing_records(output))
        omitted = stack.enter_context(writing_records(listing)) if omit_broken else None
        bar = stack.enter_context(tqdm(total=file_sizes([source]), desc="labelling", unit="B", unit_scale=True))
        for n, record in enumerate(stream_records(source, bar.update)):
            if not _sound(record, n, source, omitted):
                tally.omitted += 1
                continue
            tasks = tasks_of(record, rules)
            if tasks[0] is None:
                tally.unmatched += 1
                tally.first_unmatched = tally.first_unmatched or _describe(record, n)
                tasks = [task or unmatched for task in tasks]
            tally.mixed += len(set(tasks)) > 1
            if None in tasks:
                continue
            for labelled in label(record, tasks, split_turns):
                writer.write(unique(labelled))
                tally.add(labelled)
        if tally.unmatched and unmatched is None:
            raise InputError(
                f"{source}: {tally.unmatched} record(s) match no rule, the first is {tally.first_unmatched}. "
                "Add a rule, or set their task with --unmatched."
            )
        if not tally.records:
            raise InputError(f"{source}: no record is valid, see {listing}. Fix the file.")
    return tally


def _sound(record: Record, n: int, source: Path, omitted: RecordWriter | None) -> bool:
    where = f"{source}: {name_of(record, n)}"
    for _, problem in record_problems(record, where, set()):
        leave_out(problem, where, n, record, omitted)
        return False
    return True


def _describe(record: Record, n: int) -> str:
    image = next(iter(image_names(record)), None)
    return f"{name_of(record, n)}, image {image!r}, question {questions_of(record)[0].text[-80:]!r}"


def _put_images_first(turns: list[dict], images: int) -> None:
    """Add image tokens to the first question if removed questions contained them."""
    if sum(turn["value"].count(IMAGE_TOKEN) for turn in turns) == images:
        return
    for turn in turns[::2]:
        turn["value"] = turn["value"].replace(IMAGE_TOKEN, "").strip()
    turns[0]["value"] = f"{IMAGE_TOKEN}\n" * images + turns[0]["value"]


def _parse() -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog=_EXAMPLE)
    parser.add_argument("--input", required=True, type=Path, help="annotation file, .json or .jsonl")
    parser.add_argument("--output", required=True, type=Path, help="annotation file to write")
    parser.add_argument("--rules", type=Path, default=DEFAULT_RULES, help="rule file, see docs/preparing_data.md")
    parser.add_argument(
        "--split-turns",
        action="store_true",
        help="write one record per task of a conversation; otherwise its first question determines the task",
    )
    parser.add_argument(
        "--unmatched", metavar="TASK", help="task of records that no rule matches; default: refuse them"
    )
    parser.add_argument("--omit-broken", action="store_true", help="omit and list records that training would refuse")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = _parse()
    listing = omitted_file(args.output) if args.omit_broken else None
    refuse_unwritable([args.output, listing], [args.input, args.rules])
    rules = load_rules(args.rules)
    tally = label_file(args.input, args.output, rules, args.split_turns, args.unmatched, args.omit_broken)
    print("\n".join(tally.lines()))
    if tally.mixed:
        done = (
            "split into one record per task" if args.split_turns else "labelled by the first; --split-turns splits them"
        )
        print(f"{tally.mixed} records have questions of several tasks: {done}")
    if tally.unmatched:
        print(f"{tally.unmatched} records match no rule: {args.unmatched}")
    if tally.omitted:
        print(f"{tally.omitted} invalid records omitted: {listing}")


if __name__ == "__main__":
    run(main)
