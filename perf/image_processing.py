"""Time of preprocessing an image from RGB to pixel values, against transformers' processor after the same resize.

    python -m perf.image_processing [--size 640 480 --repeats 30]

Both are called in turn on one image; printed are the least CPU seconds of each and the largest difference of pixels.
"""

import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from PIL import Image

from llava.data import images
from visatb.cli import ArgumentParser, run
from visatb.layout import lay_out


def main() -> int:
    """Measure and print."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[640, 480], help="width and height of the image")
    parser.add_argument("--repeats", type=int, default=30, help="calls per variant")
    args = parser.parse_args()
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    width, height = args.size
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    rows = [["", "ms", "ms (transformers)", "ratio", "largest difference"]]
    for name, pad in (("pad", True), ("square", False)):
        own, theirs, difference = [], [], 0.0
        for _ in range(args.repeats):
            seconds, found = _timed(lambda pad=pad: images.process_image(image, processor, pad))
            with patch.object(images, "_is_plain_clip", lambda _: False):
                other, expected = _timed(lambda pad=pad: images.process_image(image, processor, pad))
            own.append(seconds)
            theirs.append(other)
            difference = max(difference, float((found - expected).abs().max()))
        one, two = min(own), min(theirs)
        rows.append([name, f"{1e3 * one:.2f}", f"{1e3 * two:.2f}", f"{one / two:.2f}", f"{difference:.1e}"])
    print(lay_out(rows))
    return 0


def _timed(call: Callable):
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


if __name__ == "__main__":
    run(main)
