"""Files of data that are none: texts, tables, arrays, images, vocabularies, results of others."""

import io
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.reliability.conftest import MODEL, STREAM
from tests.reliability.generated import broken

SEED = 20261128
FIT = ["--quick", "--steps", "2", "--out", "new/run"]
TEXTS = {
    "empty": b"",
    "one byte": b"x",
    "two bytes": b"xy",
    "not UTF-8": b"caf\xe9 " * 100,
    "cut in a letter": "\u2603".encode()[:2],
    "half of a pair": b"\xed\xa0\x80" * 50,
    "UTF-16": ("a text " * 100).encode("utf-16"),
}
TABLES = {
    "empty": b"",
    "one byte": b"x",
    "newlines": b"\n\n\n",
    "header alone": b"a,b,y\n",
    "one row": b"a,b,y\n1,2,3\n",
    "two rows": b"a,b,y\n1,2,3\n4,5,6\n",
    "ragged": b"a,b,y\n1,2,3\n4,5\n6,7,8\n1,2,3\n4,5,6\n",
    "ragged behind": b"a,b,y\n" + b"1,2,3\n" * 20 + b"1,2,3,4\n",
    "one column": b"y\n" + b"1\n2\n3\n" * 9,
    "nothing in a cell": b"a,b,y\n" + b"1,,3\n2,3,4\n" * 9,
    "NaN": b"a,b,y\n" + b"1,nan,3\n2,3,4\n" * 9,
    "infinite": b"a,b,y\n" + b"1,inf,3\n2,3,4\n" * 9,
    "too large": b"a,b,y\n" + b"1,1e999,3\n2,3,4\n" * 9,
    "text among numbers": b"a,b,y\n" + b"1,2,3\n2,red,4\n" * 9 + b"2,3,4\n" * 9,
    "target without a value": b"a,b,y\n" + b"1,2,\n" * 20,
    "target of NaN": b"a,b,y\n" + b"1,2,nan\n" * 20,
    "a name twice": b"a,a,y\n" + b"1,2,3\n2,3,4\n" * 9,
    "a quote that is open": b'a,b,y\n1,"2,3\n2,3,4\n' + b"2,3,4\n" * 9,
    "NUL": b"a,b,y\n" + b"1,2\0,3\n" * 20,
    "Latin-1": b"a,caf\xe9,y\n" + b"1,2,3\n" * 20,
    "UTF-16": ("a,b,y\n" + "1,2,3\n" * 20).encode("utf-16"),
    "binary": random.Random(SEED).randbytes(500),
    "no header": b"1,2,3\n" * 20,
    "one value": b"a,b,y\n" + b"1,2,3\n" * 20,
    "a class for each row": b"a,y\n" + b"".join(b"%d,c%d\n" % (i, i) for i in range(30)),
    "long cell": b"a,b,y\n" + b"1," + b"9" * 200_000 + b",3\n",
    "semicolons": b"a;b;y\n" + b"1;2;3\n" * 20,
}
LIBSVM = {
    "empty": b"",
    "one class": b"1 1:2 2:3\n" * 20,
    "no label": b"1:2 2:3\n" * 20,
    "no number": b"1 1:x\n-1 1:2\n",
    "NaN": b"1 1:nan\n-1 1:2\n" * 5,
    "index 0": b"1 0:2\n-1 1:2\n" * 5,
    "falling": b"1 3:2 2:1\n-1 1:2\n" * 5,
    "huge index": b"1 99999999999999:2\n-1 1:2\n" * 5,
    "three classes": b"0 1:1\n1 1:2\n2 1:3\n" * 5,
    "binary": random.Random(SEED).randbytes(300),
    "not UTF-8": b"\xe9 1:2\n",
    "NUL": b"1 1:2\0\n-1 1:1\n",
}


def npy(array, **more):
    file = io.BytesIO()
    np.save(file, array, **more)
    return file.getvalue()


def arrays():
    whole = npy(np.arange(60.0).reshape(20, 3))
    yield from broken(whole, random.Random(SEED)).items()
    yield "objects", npy(np.array([[{}, 1, "x"]] * 20, object), allow_pickle=True)
    yield "text", npy(np.array([["a", "b"]] * 20))
    yield "a number", npy(np.float64(3))
    yield "flat", npy(np.arange(20.0))
    yield "four axes", npy(np.zeros((5, 2, 2, 2)))
    yield "no rows", npy(np.zeros((0, 3)))
    yield "no columns", npy(np.zeros((20, 0)))
    yield "complex", npy(np.zeros((20, 3), complex))
    yield "NaN", npy(np.full((20, 3), np.nan))
    yield "records", npy(np.zeros(20, [("a", "f8"), ("b", "f8")]))
    yield "dates", npy(np.zeros((20, 3), "M8[s]"))


@pytest.mark.parametrize("verb", ["train", "evaluate", "stream"])
def test_a_text_that_is_none(judge, ground, verb):
    text = Path("text.txt")
    words = {
        "train": ["lm", "train", "text.txt", *MODEL, "--steps", "1", "--out", "new/run"],
        "evaluate": ["lm", "evaluate", ground / "lm", "--data", "text.txt", "--windows", "1"],
        "stream": ["lm", "stream", ground / "lm", "--text", "text.txt", *STREAM, "--out", "new/run"],
    }[verb]
    for name, content in TEXTS.items():
        text.write_bytes(content)
        if (verb, name) != ("stream", "two bytes"):  # one token can be scored
            judge(words, f"text, {verb}", note=name)
    text.unlink()
    text.symlink_to("text.txt")
    judge(words, f"text, {verb}", note="a link to itself")
    text.unlink()
    text.mkdir()
    judge(words, f"text, {verb}", note="an empty folder")
    (text / "inner").write_bytes(b"\xff")
    judge(words, f"text, {verb}", note="a folder of no text")
    for name in ("/dev/zero", "/dev/null", "/proc/self/mem", "pipe"):
        if name == "pipe":
            os.mkfifo("pipe")
        judge([name if word == "text.txt" else word for word in words], f"text, {verb}", note=name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may read everything")
def test_a_file_that_may_not_be_read(judge, ground):
    Path("closed.csv").write_text("a,y\n1,2\n")
    Path("closed.csv").chmod(0)
    for words in (["fit", "closed.csv", *FIT], ["lm", "train", "closed.csv", *MODEL, "--out", "new/run"]):
        judge(words, "permission")


def test_a_table_that_is_none(judge, ground):
    # numbers without names, one value and few rows can be told from one another, badly
    legal = {"no header", "one value", "two rows", "a class for each row", "semicolons"}
    for name, content in TABLES.items():
        Path("table.csv").write_bytes(content)
        judge(["fit", "table.csv", *FIT], "table", codes=(0, 2) if name in legal else (2,), note=name)
        if name in legal and Path("new").exists():
            Path("new").rename(f"kept {name}")
        judge(["predict", ground / "fitted", "table.csv"], "table to predict", codes=(0, 2), note=name)
        Path("predictions.csv").unlink(missing_ok=True)


def test_arrays_that_are_none(judge):
    for name, content in arrays():
        Path("array.npy").write_bytes(content)
        Path("array.npz").write_bytes(content)
        for file in ("array.npy", "array.npz"):
            legal = name in ("flipped", "NUL behind", "flat")  # numbers still, or others
            judge(["fit", file, *FIT], "array", codes=(0, 1, 2) if legal else (2,), note=name)
            if Path("new").exists():
                Path("new").rename(f"kept {name} {file}")


def test_images_that_are_none(judge):
    def idx(kind, *shape, data=b""):
        return struct.pack(">HBB", 0, kind, len(shape)) + b"".join(struct.pack(">I", n) for n in shape) + data

    whole = {"images": idx(8, 20, 2, 2, data=bytes(range(80))), "labels": idx(8, 20, data=bytes([0, 1] * 10))}
    cases = {
        "one image more": {"images": idx(8, 21, 2, 2, data=bytes(84))},
        "cut": {"images": whole["images"][:-3]},
        "too long": {"images": whole["images"] + b"x"},
        "huge": {"images": idx(8, 2**31, 2**31, 2**31)},
        "of no kind": {"images": idx(77, 20, 2, 2, data=bytes(80))},
        "no axes": {"labels": idx(8)},
        "empty": {"images": b""},
        "labels of two axes": {"labels": idx(8, 20, 1, data=bytes(20))},
    }
    Path("mnist").mkdir()
    for name, changed in cases.items():
        for kind, content in (whole | changed).items():
            axes = 3 if kind == "images" else 1
            Path(f"mnist/train-{kind}-idx{axes}-ubyte").write_bytes(content)
        judge(["fit", "mnist", *FIT], "images", note=name)


def test_data_of_a_replication_that_is_none(judge):
    for name, content in LIBSVM.items():
        Path("data.txt").write_bytes(content)
        judge(
            ["replicate", "arcm", "--data", "data.txt", "--quick", "--jobs", "1", "--out", "new/run"],
            "LIBSVM",
            note=name,
        )


def test_a_vocabulary_that_is_none(judge, ground):
    whole = (ground / "exported" / "tokenizer.json").read_bytes()
    for name, content in broken(whole, random.Random(SEED)).items():
        if name in ("flipped", "NUL behind"):
            continue
        Path("own.json").write_bytes(content)
        judge(["lm", "train", ground / "text.txt", "--vocabulary", "own.json", *MODEL, "--out", "new/run"], "tokenizer")
        judge(["lm", "separators", "own.json"], "tokenizer", note=name)


def test_results_to_merge_that_are_none(judge):
    whole = b'{"format": 1, "lissome": "0", "settings": {}, "rows": []}\n'
    for name, content in broken(whole, random.Random(SEED)).items():
        if name in ("flipped", "NUL behind"):
            continue
        Path("results.json").write_bytes(content)
        judge(["pde", "bench", "--quick", "--merge", "results.json", "--out", "new/run"], "results to merge", note=name)
