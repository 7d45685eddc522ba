"""Every published form of data sets, written by hand with three examples, and what must be read from it.

The pictures are flat: red, green and blue, and each text names its colour, so that a wrong pair is seen.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from blip_core.datasets import Example
from tests.helpers.data_files import write_tar

COLOURS = ("red", "green", "blue")
TEXTS = tuple(f"A {colour} box, and nothing else" for colour in COLOURS)
URLS = tuple(f"http://example.org/{colour}.jpg" for colour in COLOURS)


@dataclass(frozen=True)
class Published:
    """A form: its row in the registry, what writes it into a folder and returns what to open, and what else to give."""

    form: str
    write: Callable[[Path], Any]
    task: str = "caption"
    options: dict[str, Any] | None = None
    image_root: str | None = None
    optional: str = ""  # a package that it needs


def flat(colour: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, kind)
    return file.getvalue()


def colour_of(picture: Any) -> str:
    """The colour of a flat picture."""
    pixel = picture.load().convert("RGB").getpixel((16, 16))
    return min(COLOURS, key=lambda c: sum(abs(a - b) for a, b in zip(ImageColor.getrgb(c), pixel, strict=True)))


def pairs(examples: list[Example]) -> list[tuple[Any, ...]]:
    """What is seen and what is said, of each example."""
    return [
        (*map(colour_of, e.images), *e.texts, *e.answers, *([] if e.label is None else [e.label])) for e in examples
    ]


def save(folder: Path, *names: str) -> None:
    """Save the three pictures under these names."""
    for name, colour in zip(names, COLOURS, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(flat(colour, "PNG" if name.endswith(".png") else "JPEG"))


def dump(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def coco(folder: Path) -> Path:
    names = [f"COCO_val2014_{number:012}.jpg" for number in (42, 73, 74)]
    save(folder / "val2014", *names)
    images = [
        {"license": 3, "file_name": name, "coco_url": f"http://example.org/{name}", "height": 32, "width": 32, "id": id}
        for name, id in zip(names, (42, 73, 74), strict=True)
    ]
    captions = [{"image_id": id, "id": 100 + id, "caption": t} for id, t in zip((42, 73, 74), TEXTS, strict=True)]
    value = {"info": {"year": 2014}, "images": images, "licenses": [{"id": 3}], "annotations": captions}
    return dump(folder / "annotations" / "captions_val2014.json", value)


def karpathy(folder: Path) -> Path:
    names = [f"COCO_val2014_{number:012}.jpg" for number in (42, 73, 74)]
    save(folder / "pictures" / "val2014", *names)
    images = [
        {
            "filepath": "val2014", "sentids": [n], "filename": name, "imgid": n, "split": "test", "cocoid": 42 + n,
            "sentences": [{"tokens": text.lower().split(), "raw": text, "imgid": n, "sentid": n}],
        }
        for n, (name, text) in enumerate(zip(names, TEXTS, strict=True))
    ]  # fmt: skip
    other = {**images[0], "filename": "COCO_train2014_000000000001.jpg", "split": "train"}
    return dump(folder / "dataset_coco.json", {"images": [other, *images], "dataset": "coco"})


def nocaps(folder: Path) -> Path:
    names = ("0013ea2087020901", "0013f0b9d8e5b1e5", "00141571d986d241")
    save(folder / "images", *(f"{name}.jpg" for name in names))
    images = [
        {"id": n, "open_images_id": name, "file_name": f"{name}.jpg", "coco_url": f"http://example.org/{name}.jpg",
         "height": 32, "width": 32, "license": 0, "date_captured": "2018-11-06 11:04:33"}
        for n, name in enumerate(names)
    ]  # fmt: skip
    captions = [{"image_id": n, "id": n, "caption": text} for n, text in enumerate(TEXTS)]
    value = {"licenses": [], "info": {"version": "0.1"}, "images": images, "annotations": captions}
    return dump(folder / "nocaps_val_4500_captions.json", value)


def refcoco(folder: Path) -> Path:
    """As MDETR publishes it: an "image" for each expression."""
    names = [f"COCO_train2014_{number:012}.jpg" for number in (42, 73, 74)]
    save(folder / "train2014", *names)
    images = [
        {"file_name": name, "height": 32, "width": 32, "id": n, "original_id": number, "caption": text,
         "dataset_name": "refcoco+", "tokens_negative": [[0, len(text)]]}
        for n, (name, number, text) in enumerate(zip(names, (42, 73, 74), TEXTS, strict=True))
    ]  # fmt: skip
    boxes = [{"area": 48, "iscrowd": 0, "image_id": n, "category_id": 1, "id": n, "bbox": [4.0, 8.0, 6.0, 8.0],
              "original_id": 100 + n, "tokens_positive": [[0, 3]]} for n in range(3)]  # fmt: skip
    return dump(folder / "finetune_refcoco+_val.json", {"info": [], "images": images, "annotations": boxes})


def answers(colour: str) -> list[dict[str, Any]]:
    return [{"answer": colour, "answer_confidence": "yes", "answer_id": number} for number in range(1, 11)]


def vqa(folder: Path) -> Path:
    save(folder / "val2014", *(f"COCO_val2014_{number:012}.jpg" for number in (42, 73, 74)))
    about = {"info": {"version": "2.0"}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    asked = [{"image_id": n, "question": "What color?", "question_id": 1000 * n} for n in (42, 73, 74)]
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    dump(path, {**about, "task_type": "Open-Ended", "questions": asked})
    said = [
        {"question_type": "what color", "multiple_choice_answer": c, "answers": answers(c), "image_id": n,
         "answer_type": "other", "question_id": 1000 * n}
        for n, c in zip((42, 73, 74), COLOURS, strict=True)
    ]  # fmt: skip
    dump(folder / "v2_mscoco_val2014_annotations.json", {**about, "annotations": said[::-1]})
    return path


def vqa_answers(folder: Path) -> Path:
    return vqa(folder).with_name("v2_mscoco_val2014_annotations.json")


def ok_vqa(folder: Path) -> list[Path]:
    """Both files by names of their own; an answer of OK-VQA has a raw form, too."""
    asked, said = vqa(folder).rename(folder / "asked.json"), folder / "v2_mscoco_val2014_annotations.json"
    value = json.loads(said.read_text())
    for entry in value["annotations"]:
        entry["answers"] = [{**one, "raw_answer": f"{one['answer']}s"} for one in entry["answers"]]
    return [dump(said, value).rename(folder / "said.json"), asked]


def a_okvqa(folder: Path) -> Path:
    save(folder / "val2017", *(f"{number:012}.jpg" for number in (42, 73, 74)))
    entries = [
        {"split": "val", "image_id": n, "question_id": f"22MexNkBPpdZGX6sxbxV{n}", "question": "What color?",
         "choices": [*COLOURS, "white"], "correct_choice_idx": k, "direct_answers": [COLOURS[k]] * 10,
         "difficult_direct_answer": False, "rationales": ["It is seen."] * 3}
        for k, n in enumerate((42, 73, 74))
    ]  # fmt: skip
    return dump(folder / "aokvqa_v1p0_val.json", entries)


def genome(folder: Path) -> Path:
    save(folder, "VG_100K/1.jpg", "VG_100K_2/2.jpg", "VG_100K/3.jpg")
    entries = [
        {"id": n, "qas": [{"a_objects": [], "question": "What color?", "image_id": n, "qa_id": 986760 + n, "answer": c,
                           "q_objects": []}]}
        for n, c in enumerate(COLOURS, 1)
    ]  # fmt: skip
    return dump(folder / "question_answers.json", entries)


def nlvr(folder: Path) -> Path:
    lines = []
    for number, (colour, text) in enumerate(zip(COLOURS, TEXTS, strict=True)):
        for side in (0, 1):
            place = folder / "images" / "train" / "7" / f"train-10{number}-0-img{side}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(flat(colour if side else "red"))
        entry = {"sentence": text, "left_url": URLS[0], "right_url": URLS[number], "label": "True", "directory": 7,
                 "synset": "box", "query": "boxes", "identifier": f"train-10{number}-0-0", "writer": 1,
                 "validation": {"4": "True"}}  # fmt: skip
        lines.append(json.dumps(entry))
    path = folder / "train.json"
    path.write_text("\n".join(lines) + "\n")
    return path


def flickr30k(folder: Path) -> Path:
    save(folder / "flickr30k_images", "1000092795.jpg", "10002456.jpg", "2199200615.jpg")
    lines = ["image_name| comment_number| comment", f"1000092795.jpg| 0| {TEXTS[0]}", f"10002456.jpg| 4| {TEXTS[1]}"]
    lines.append(f"2199200615.jpg| 4   {TEXTS[2]}")  # a bar is missing in the published file, too
    (folder / "results.csv").write_text("\n".join(lines))
    return folder / "results.csv"


FLICKR8K = ("1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg", "1002674143_1b742ab4b8.jpg")


def flickr8k(folder: Path) -> Path:
    save(folder / "Images", *FLICKR8K)
    lines = [f"{FLICKR8K[0]},{TEXTS[0]}", f'{FLICKR8K[1]},"{TEXTS[1]}"', f"{FLICKR8K[2]},{TEXTS[2]}"]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    return folder / "captions.txt"


def tokens(folder: Path) -> Path:
    save(folder / "Flicker8k_Dataset", *FLICKR8K)
    lines = [f"{name}#{n}\t{text}" for n, (name, text) in enumerate(zip(FLICKR8K, TEXTS, strict=True))]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return folder / "Flickr8k.token.txt"


def save_videos(folder: Path) -> None:
    import av

    folder.mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        with av.open(str(folder / f"video{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=4)
            stream.width = stream.height = 32
            for shown in ("white", colour, colour):  # the picture is the frame in the middle
                image = Image.new("RGB", (32, 32), shown)
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode())


def msrvtt(folder: Path) -> Path:
    save_videos(folder / "videos")
    videos = [
        {"category": 9, "url": f"https://example.org/watch?v={n}", "video_id": f"video{n}", "start time": 1.5,
         "end time": 9.5, "split": "validate" if n < 3 else "train", "id": n}
        for n in range(4)
    ]  # fmt: skip
    said = [{"caption": t, "video_id": f"video{n}", "sen_id": n} for n, t in enumerate((*TEXTS, "gone"))]
    return dump(folder / "train_val_videodatainfo.json", {"info": {}, "videos": videos, "sentences": said})


def msrvtt_pairs(folder: Path) -> Path:
    save_videos(folder / "videos")
    lines = [f'ret{n},msr{n},video{n},"{text}"' for n, text in enumerate(TEXTS)]
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(["key,vid_key,video_id,sentence", *lines]))
    return folder / "MSRVTT_JSFUSION_test.csv"


def msrvtt_clips(folder: Path) -> Path:
    save_videos(folder / "videos")
    lines = [
        json.dumps({"clip_name": f"video{n}", "retrieval_key": f"ret{n}", "caption": t}) for n, t in enumerate(TEXTS)
    ]
    (folder / "msrvtt_test.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "msrvtt_test.jsonl"


def conceptual(folder: Path) -> Path:
    save(folder / "training", *(f"{row}_{zlib.crc32(url.encode())}" for row, url in enumerate(URLS)))
    (folder / "Train_GCC-training.tsv").write_text("".join(f"{t}\t{u}\n" for t, u in zip(TEXTS, URLS, strict=True)))
    return folder / "Train_GCC-training.tsv"


def img2dataset(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = folder / "laion"
    folder.mkdir(parents=True)
    rows = [
        {"url": url, "caption": text, "key": f"{n:09}", "status": "success", "error_message": None, "width": 32,
         "height": 32, "original_width": 32, "original_height": 32, "exif": "{}", "sha256": "0" * 64}
        for n, (url, text) in enumerate(zip(URLS, TEXTS, strict=True))
    ]  # fmt: skip
    for shard, some in enumerate((rows[:2], rows[2:])):
        members = {}
        for row in some:
            colour = COLOURS[int(row["key"])]
            members |= {f"{row['key']}.jpg": flat(colour, "JPEG"), f"{row['key']}.json": json.dumps(row).encode()}
            members[f"{row['key']}.txt"] = row["caption"].encode()
        write_tar(folder / f"{shard:05}.tar", members)
        pq.write_table(pa.Table.from_pylist(some), folder / f"{shard:05}.parquet")
        dump(folder / f"{shard:05}_stats.json", {"count": len(some), "successes": len(some), "failed_to_download": 0})
    return folder


def image_folder(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder = folder / "pictures"
        save(folder / "train", "0001.png", "0002.png", "0003.png")
        save(folder / "test", "0001.png", "0002.png", "0003.png")
        rows = [{"file_name": f"000{n}.png", "text": text} for n, text in enumerate(TEXTS, 1)]
        for split, some in (("train", rows), ("test", rows[:1])):
            path = folder / split / f"metadata.{kind}"
            if kind == "jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in some))
            elif kind == "csv":
                path.write_text("file_name,text\n" + "".join(f'{r["file_name"]},"{r["text"]}"\n' for r in some))
            else:
                import pyarrow as pa
                import pyarrow.parquet as pq

                pq.write_table(pa.Table.from_pylist(some), path)
        return folder

    return write


def metadata(folder: Path) -> Path:
    return image_folder("jsonl")(folder) / "train" / "metadata.jsonl"


def saved(folder: Path) -> Path:
    """As `save_to_disk` writes it, in two files."""
    import pyarrow as pa

    folder = folder / "saved"
    rows = [{"image": {"bytes": flat(c), "path": f"{c}.png"}, "text": t} for c, t in zip(COLOURS, TEXTS, strict=True)]
    for split, some in (("train", rows), ("test", rows[:1])):
        place = folder / split
        files = [f"data-{n:05}-of-00002.arrow" for n in range(2)]
        dump(place / "state.json", {"_data_files": [{"filename": name} for name in files], "_split": split})
        dump(place / "dataset_info.json", {"features": {"image": {"_type": "Image"}, "text": {"_type": "Value"}}})
        table = pa.Table.from_pylist(some)
        for name, part in zip(files, (table[:2], table[2:]), strict=True):
            with pa.OSFile(str(place / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(part, max_chunksize=1)
    dump(folder / "dataset_dict.json", {"splits": ["train", "test"]})
    return folder


def saved_split(folder: Path) -> Path:
    return saved(folder) / "train"


QUESTIONS: dict[str, Any] = {"task": "vqa"}
PUBLISHED = {
    "coco": Published("COCO captions", coco),
    "coco, pictures named": Published("COCO captions", coco, image_root="val2014"),
    "karpathy": Published("Karpathy's splits", karpathy, options={"split": "test"}, image_root="pictures"),
    "nocaps": Published("NoCaps", nocaps),
    "refcoco+": Published("RefCOCO", refcoco, task="grounding"),
    "vqa": Published("VQA questions", vqa, **QUESTIONS),
    "vqa, answers named": Published("VQA annotations", vqa_answers, **QUESTIONS),
    "ok-vqa": Published("VQA annotations", ok_vqa, **QUESTIONS),
    "a-okvqa": Published("A-OKVQA", a_okvqa, **QUESTIONS),
    "visual genome": Published("Visual Genome QA", genome, **QUESTIONS),
    "nlvr2": Published("NLVR2", nlvr, task="nlvr"),
    "flickr30k": Published("Flickr30k results", flickr30k),
    "flickr8k": Published("Flickr8k captions", flickr8k),
    "tokens": Published("Flickr tokens", tokens),
    "msrvtt": Published("MSRVTT", msrvtt, options={"split": "validate"}, optional="av"),
    "msrvtt pairs": Published("MSRVTT test pairs", msrvtt_pairs, optional="av"),
    "msrvtt clips": Published("MSRVTT test clips", msrvtt_clips, optional="av"),
    "conceptual captions": Published("Conceptual Captions", conceptual),
    "img2dataset": Published("img2dataset", img2dataset, optional="pyarrow"),
    "image folder, jsonl": Published("image folder", image_folder("jsonl"), options={"split": "train"}),
    "image folder, csv": Published("image folder", image_folder("csv"), options={"split": "train"}),
    "image folder, parquet": Published(
        "image folder", image_folder("parquet"), options={"split": "train"}, optional="pyarrow"
    ),
    "metadata": Published("image folder's metadata", metadata),
    "saved": Published("saved data set", saved, options={"split": "train"}, optional="pyarrow"),
    "saved split": Published("saved data set", saved_split, optional="pyarrow"),
}
