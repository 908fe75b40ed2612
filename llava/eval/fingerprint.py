"""Old address of `llava.generate.fingerprint`."""

from llava.generate.fingerprint import (  # noqa: F401
    file_digest,
    folder_digest,
    images_digest,
    key_of,
    model_fingerprint,
)
