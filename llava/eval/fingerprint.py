"""Old address of `llava.generate.fingerprint`."""

from llava.generate.fingerprint import file_digest, folder_digest, images_digest, key_of, model_fingerprint

__all__ = ["file_digest", "folder_digest", "images_digest", "key_of", "model_fingerprint"]
