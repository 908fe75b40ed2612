"""Small names that programs written for LLaVA import from here."""

import logging
from pathlib import Path

server_error_msg = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"


def build_logger(logger_name: str, logger_filename: str | None = None) -> logging.Logger:
    """A logger of that name that also writes to a file, if one is given; standard streams stay as they are."""
    logger = logging.getLogger(logger_name)
    logger.setLevel(logging.INFO)
    wanted = None if logger_filename is None else str(Path(logger_filename).resolve())
    present = {handler.baseFilename for handler in logger.handlers if isinstance(handler, logging.FileHandler)}
    if wanted is not None and wanted not in present:
        handler = logging.FileHandler(wanted, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s"))
        logger.addHandler(handler)
    return logger


def disable_torch_init() -> None:
    """Do nothing: `load_pretrained_model` never initialises weights that a checkpoint brings.

    LLaVA's scripts call it to save that time by replacing torch's initialisers for the whole process.
    """
