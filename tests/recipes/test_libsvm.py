import bz2
import gzip

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.recipes.libsvm import read_libsvm

SMALL = "+1 1:0.5 3:2  # a comment\n-1\n\n-1 2:-1e-2\n\n"
A = [[0.5, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, -0.01, 0.0]]


@pytest.fixture
def file(tmp_path):
    def write(content, name="data"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["data", "data.gz", "data.bz2"])
def test_packed_or_plain_the_rows_are_the_same(file, name):
    pack = {"data": bytes, "data.gz": gzip.compress, "data.bz2": bz2.compress}[name]
    found = read_libsvm(file(pack(SMALL.encode()), name))
    assert found.name == "data"
    assert found.A.toarray().tolist() == A
    assert found.b.tolist() == [1.0, 0.0, 0.0]


def test_labels_0_and_1_stay_and_windows_lines_are_read(file):
    assert read_libsvm(file("0 1:1\r\n1 2:1\r\n")).b.tolist() == [0.0, 1.0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.floats(-9, 9, allow_nan=False), min_size=3, max_size=3), min_size=2, max_size=6))
def test_what_is_written_is_read(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("svm") / "t"
    table = [[1.0, *row] for row in table]
    lines = [
        f"{(-1) ** i} " + " ".join(f"{j + 1}:{v!r}" for j, v in enumerate(row) if v) for i, row in enumerate(table)
    ]
    path.write_text("\n".join(lines))
    found = read_libsvm(path)
    dense = torch.tensor(table, dtype=torch.float64)
    assert torch.equal(torch.from_numpy(found.A.toarray()), dense[:, : found.A.shape[1]])
    assert not dense[:, found.A.shape[1] :].any()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is empty"),
        ("\n# nothing\n", "is empty"),
        ("1\n-1\n", "2 labels and not one index:value"),
        ("1 1:1\n-1 2\n", "line 2: '2' is no index:value"),
        ("1 1:1\n-1 2:\n", "line 2: '2:' is no index:value"),
        ("1 1:1\n-1 2:x\n", "line 2: '2:x' is no index:value"),
        ("1 1:1\n-1 2:nan\n", "line 2: '2:nan' is no index:value"),
        ("1 0:1\n", "line 1: '0:1' is no index:value"),
        ("1 99999999999:1\n", "line 1: '99999999999:1' is no index:value"),
        ("1 2:1 1:1\n", "line 1: index 1 follows 2"),
        ("1 2:1 2:1\n", "line 1: index 2 follows 2"),
        ("yes 1:1\n", "line 1: label 'yes' is no number"),
        ("1,2,3\n", "line 1: label '1,2,3' is no number"),
        ("1 1:1\n2 1:1\n3 1:1\n", "labels 1, 2, 3; legal are 0 and 1"),
        ("nan 1:1\n1 1:1\n", "labels .*nan"),
        ("1 1:1\n1 1:2\n", "one label alone, 1"),
        (b"\x80\x02junk", "byte 0 is not ASCII"),
        (b"1 1:1\x00\n", "zero bytes"),
    ],
)
def test_a_broken_file_is_told(file, content, text):
    with pytest.raises(UsageError, match=text):
        read_libsvm(file(content))


@pytest.mark.parametrize(("name", "pack"), [("d.gz", gzip.compress), ("d.bz2", bz2.compress)])
def test_a_packed_file_that_is_cut_is_told(file, name, pack):
    whole = pack(SMALL.encode() * 50)
    for content in (whole[: len(whole) // 2], b"", b"1 1:1\n-1 1:2\n"):
        with pytest.raises(UsageError, match="cut or broken|is empty"):
            read_libsvm(file(content, name))


def test_a_file_that_is_not_there_or_a_folder_is_told(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match=f"data file '{path}' cannot be read"):
            read_libsvm(path)
