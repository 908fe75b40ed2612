"""The zero-shot benchmarks, a module each: data, official score, submission file. Needs no torch.

In every module:

    score(answers, ..., source) -> Scores      the official rule, in memory; `source` is named in messages
    upload(answers, ...) -> str                the content of the file that a server takes
    evaluate(answers, files) -> Evaluation     the same out of files: what the command and the suite call
    BENCHMARKS                                 name -> ZeroShot: what the suite knows of it

Answers must be exactly one to each question: missing, further and repeated ones raise InputError, as does an official
file of another shape. A new benchmark is a new module of this form, and a script in scripts_visatb/eval/.
"""
