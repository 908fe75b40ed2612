"""Files of a model that is named by its folder or by its name on the Hugging Face Hub."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    get_session,
)
from transformers.utils import TRANSFORMERS_CACHE

from visatb.cli import one_line
from visatb.errors import InputError

_ANSWER_SECONDS = 10


def companion(name_or_path: str | Path, file_name: str, cache_dir: str | None = None) -> Path | None:
    """A file of a model, in its folder or on the Hub; None if the model has no such file.

    Args:
        name_or_path: folder or Hub name.
        file_name: the file.
        cache_dir: where downloads are kept; None: transformers' own place.

    Raises:
        InputError: neither a folder nor a model of the Hub that is cached or can be reached.
    """
    folder, name = Path(name_or_path), str(name_or_path)
    if os.path.isdir(folder):  # Path.is_dir raises for a name that is too long
        return folder / file_name if (folder / file_name).is_file() else None
    cache = cache_dir or TRANSFORMERS_CACHE
    try:
        online = _hub_answers(name, file_name)
        return Path(hf_hub_download(name, file_name, cache_dir=cache, local_files_only=not online))
    except LocalEntryNotFoundError:
        if any(Path(cache, repo_folder_name(repo_id=name, repo_type="model"), "snapshots").glob("*/*")):
            return None
        reason = "the Hub cannot be reached to look for a model of that name."
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError:
        reason = "the Hub has no model of that name, or only for those who log in (huggingface-cli login)."
    except HFValidationError:
        raise InputError(f"{name[:200]}: no such folder. Check the path.") from None
    except OSError as error:
        reason = f"the Hub's file cannot be downloaded: {one_line(error)}"
    raise InputError(f"{name}: no such folder, and {reason} Check the name, or give a folder.")


def _hub_answers(name: str, file_name: str) -> bool:
    """One request without retries: the Hub's library would retry for half a minute for each file."""
    url = hf_hub_url(name, file_name)
    try:
        get_session().head(url, timeout=_ANSWER_SECONDS)
    except OSError:  # no network, or HF_HUB_OFFLINE
        return False
    return True


@contextmanager
def quiet_downloads() -> Iterator[None]:
    """Leave out the Hub library's advice on `resume_download`, which transformers 4.31.0 passes whoever calls it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`resume_download` is deprecated", category=FutureWarning)
        yield
