"""The generation loop: questions in, answers out, batch by batch. Every command that asks a model goes through it.

Questions are sorted by length, longest first (memory runs out at once or never). Needs no torch.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from llava.generate.engine import Engine, Prompt
from llava.generate.questions import Question, plan_batches
from llava.generate.work import Answer
from visatb.cli import one_line
from visatb.errors import InputError

# Questions that fail one after the other before the loop gives up: the device is lost, not the question odd.
_FAILURES_IN_A_ROW = 32


def answer_all(
    engine: Engine,
    questions: Sequence[Question],
    settled: Collection[int] = (),
    batch_size: int = 16,
    workers: int = 2,
) -> Iterator[list[Answer]]:
    """Answer questions; yields the answers of one batch after the other, each question once.

    Batches are made of all questions, settled or not, and a batch with an open question is generated whole: a run
    that was killed and resumes sees the very batches of one that was not.

    Args:
        settled: positions that need no answer.
        workers: threads that read images while the model works.

    Yields:
        Answers in the order they are made. A question whose image cannot be read, or that the model fails on, yields
        an answer that says so.

    Raises:
        InputError: images for a model that takes none; a server that refuses whatever is asked.
        EndpointError: a server that does not answer.
        OSError: when so many questions fail in a row that the fault must lie elsewhere.
    """
    at_once = getattr(engine, "concurrency", None)
    prompts = [engine.prompt(question) for question in questions]
    size = batch_size if at_once is None else 1
    plan = plan_batches([prompt.lengths for prompt in prompts], size, engine.equal_lengths)
    batches = [[prompts[n] for n in batch] for batch in plan]
    batches = [batch for batch in batches if any(prompt.question.position not in settled for prompt in batch)]
    failures = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for answered in _answered(engine, _ahead(batches, engine, pool, at_once or 1), at_once or 1):
            answers = [a for a in answered if a.position not in settled]
            yield answers
            for answer in answers:
                failures = failures + 1 if answer.failed else 0
                if failures >= _FAILURES_IN_A_ROW:
                    raise OSError(f"{failures} questions failed in a row; the last: {answer.failed}")


def _ahead(
    batches: list[list[Prompt]], engine: Engine, pool: ThreadPoolExecutor, depth: int
) -> Iterator[list[tuple[Prompt, Future]]]:
    """Prompts with the futures of their images; the images of the next `depth` batches are being read meanwhile."""
    waiting: deque[list[tuple[Prompt, Future]]] = deque()
    for batch in batches:
        waiting.append([(prompt, pool.submit(engine.load_images, prompt.question)) for prompt in batch])
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


def _answered(engine: Engine, batches: Iterable[list[tuple[Prompt, Future]]], at_once: int) -> Iterator[list[Answer]]:
    """The answers of batches, in order, or as they come where the engine takes several batches at a time.

    When one raises, those under way are waited for, so that their answers are kept, and no further one begins.
    """
    if at_once == 1:
        yield from (_answer_batch(engine, rows) for rows in batches)
        return
    with ThreadPoolExecutor(at_once) as pool:
        under_way: set[Future] = set()
        for rows in batches:
            under_way.add(pool.submit(_answer_batch, engine, rows))
            if len(under_way) == at_once:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from _results(done, under_way)
        yield from _results(under_way, set())


def _results(done: Collection[Future], under_way: Collection[Future]) -> Iterator[list[Answer]]:
    """The results of what is done; if some raised, those of what is under way too, and then the first error."""
    errors = [error for future in done if (error := future.exception()) is not None]
    for future in [*done, *(under_way if errors else ())]:
        if future.exception() is None:
            yield future.result()
    if errors:
        raise errors[0]


def _answer_batch(engine: Engine, rows: list[tuple[Prompt, Future]]) -> list[Answer]:
    """The answers of one batch; rows that cannot be asked are taken out first."""
    answers, askable = [], []
    for prompt, future in rows:
        try:
            images = future.result()
        except (InputError, OSError, ValueError) as error:
            answers.append(Answer(prompt.question.position, bad_image=one_line(error)))
            continue
        if prompt.refusal is not None:
            answers.append(Answer(prompt.question.position, failed=prompt.refusal))
            continue
        askable.append((prompt, images))
    return answers + _generate_or_split(engine, askable)


def _generate_or_split(engine: Engine, rows: list[tuple[Prompt, Any]]) -> list[Answer]:
    """Generate; when that fails (out of memory, a row's numbers), halve the batch until the culprit stands alone."""
    if not rows:
        return []
    prompts, images = zip(*rows, strict=True)
    positions = [prompt.question.position for prompt in prompts]
    try:
        texts = engine.answer(prompts, images)
    except InputError:  # nothing can be asked
        raise
    except (RuntimeError, FloatingPointError, ValueError, IndexError) as error:
        if len(rows) == 1:
            return [Answer(positions[0], failed=f"{type(error).__name__}: {one_line(error)}")]
        engine.release_memory()
        half = len(rows) // 2
        return _generate_or_split(engine, rows[:half]) + _generate_or_split(engine, rows[half:])
    return [Answer(position, text=text) for position, text in zip(positions, texts, strict=True)]
