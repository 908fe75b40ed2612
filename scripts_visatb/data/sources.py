"""Where public annotation files and images are, by the folder that records name (docs/real_data.md).

A source is listed only where its own documentation names address and folder, as read in November 2026: LLaVA's README,
ShareGPT4V's docs/Data.md, the VisATB reference's README, and the data sets' pages on the Hugging Face Hub.
"""

from dataclasses import dataclass

LLAVA = "https://github.com/haotian-liu/LLaVA#visual-instruction-tuning"
SHAREGPT4V = "https://github.com/InternLM/InternLM-XComposer/blob/main/projects/ShareGPT4V/docs/Data.md"
VISATB = "https://huggingface.co/datasets/YanqiDai/VisATB"
M3IT = "https://huggingface.co/datasets/MMInstruction/M3IT"


@dataclass(frozen=True)
class Source:
    """Where the files of a folder come from, and a remark on them."""

    address: str
    remark: str = ""


# First folders of an `image` field -> where they come from.
IMAGES = {
    "coco/train2017": Source("http://images.cocodataset.org/zips/train2017.zip"),
    "gqa/images": Source("https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip"),
    "ocr_vqa/images": Source(LLAVA, "by LLaVA's download script; every file is saved as .jpg"),
    "textvqa/train_images": Source("https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip"),
    "vg/VG_100K": Source("https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip"),
    "vg/VG_100K_2": Source("https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip"),
    "llava/llava_pretrain": Source("https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain", "images.zip"),
    "sam/images": Source(SHAREGPT4V, "a small archive with the 9,000 images of the finetuning mix is linked there"),
    "share_textvqa/images": Source(SHAREGPT4V, "web data, for academic use"),
    "web-celebrity/images": Source(SHAREGPT4V, "web data, for academic use"),
    "web-landmark/images": Source(SHAREGPT4V, "web data, for academic use"),
    "wikiart/images": Source(SHAREGPT4V, "web data, for academic use"),
}
# Benchmark -> its annotation files.
ANNOTATIONS = {
    "academic": Source(VISATB, "folder Academic; sub-datasets that were drawn for the paper are there as well"),
    "chat": Source(VISATB, "folder Chat"),
    "m3it": Source(VISATB, f"folder Large; or {M3IT} through scripts_visatb.data.m3it"),
    "mix665k": Source(
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        "llava_v1_5_mix665k.json, then visatb label and visatb split --plain-names (docs/real_data.md)",
    ),
}


def source_of(folder: str) -> Source | None:
    """Where the images of a folder come from, if that is known."""
    return next((source for place, source in IMAGES.items() if f"{folder}/".startswith(f"{place}/")), None)
