"""Tables are read as they were written, and what is no table is told with its row and column."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.recipes.table import reading
from lissome.recipes.table.reading import read_table
from lissome.recipes.table.text import _plain, read_text_table
from tests.recipes.tables import idx, images, write

NUMBERS = st.floats(-1e100, 1e100)


@hypothesis_settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=8), tab=st.booleans())
def test_numbers_written_are_the_numbers_read(tmp_path_factory, rows, tab):
    ending, mark = (".tsv", "\t") if tab else (".csv", ",")
    lines = [mark.join("abc"), *(mark.join(map(repr, row)) for row in rows)]
    path = write(tmp_path_factory.mktemp("t") / f"t{ending}", "\n".join(lines))
    frame = read_table(path)
    assert frame.columns == ("a", "b", "c")
    assert np.array_equal(frame.numbers(frame.columns), np.array(rows))


def test_the_fast_way_and_the_slow_one_read_the_same(tmp_path):
    text = "a,b\n1,2.5\n\n -3 ,1e-7\n"
    fast = _plain(text, ",", 2)
    slow = read_text_table(write(tmp_path / "t.csv", text.replace("2.5", '"2.5"')))
    assert np.array_equal(fast, [[1, 2.5], [-3, 1e-7]])
    assert np.array_equal(fast, slow.values)


def test_quoted_cells_semicolons_marks_of_order_and_ends_of_lines_are_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeff"size, cm";kind\r\n1.5;"red; dark"\r\n2;blue\r\n'.encode())
    frame = read_table(path)
    assert frame.columns == ("size, cm", "kind")
    assert frame.numbers(["size, cm"]).tolist() == [[1.5], [2.0]]
    assert frame.labels("kind") == ["red; dark", "blue"]
    assert frame.targets == ("kind",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; legal is a header"),
        ("\n \n", "is empty"),
        ("a,b\n", "has a header and no rows below it"),
        ("a,b\n1,2\n1,2,3\n", "row 2 has 3 cells; the header names 2 columns"),
        ("a,b\n1,2\n7\n", "row 2 has 1 cell; the header names 2 columns"),
        ("1,2\n3,4\n", "has no header: its first line is numbers, 1, 2"),
        (",b\n0,1\n", r"has no name for column 1; .*index=False"),
        ("a,a\n0,1\n", "names 'a' twice"),
        ('a,b\n"0,1\n', "line 2 is broken"),
        ("a,b\n0\0,1\n", "holds zero bytes"),
        (b"a,b\n\xff,1\n", "byte 4 is not UTF-8; save it as UTF-8"),
        ("a;b\n7;1\n0,12;0,5\n", "row 2, column 'a' says '0,12': write numbers with a decimal point, 0.12"),
        ("0,12;0,5\n0,13;0,6\n", "column '0,12' says '0,13': write numbers with a decimal point"),
        ("a b c\n1 2  3\n", "one column, 'a b c'; legal between columns are commas or semicolons in .csv and tabs"),
        ("a\tb\n1\t2\n", "legal between columns are commas"),
    ],
)
def test_a_broken_table_of_text_is_told(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words):
        read_table(path)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("1,red,2", "column 'b' of '.*t.csv' holds text, such as 'red' in row 3.*leave='\\[b\\]'"),
        ("1,,2", "row 3, column 'b': the value is missing"),
        ("1,NaN,2", "row 3, column 'b': the value is missing"),
        ("1,?,2", "row 3, column 'b': the value is missing"),
        ("1,inf,2", "row 3, column 'b': the value is infinite"),
        ("1,-1e308,2", "row 3, column 'b': the value is -1e308; legal are numbers up to 1e100 in size"),
    ],
)
def test_a_cell_that_is_no_number_is_told_by_row_and_column(tmp_path, cells, words):
    frame = read_table(write(tmp_path / "t.csv", f"a,b,c\n0,0,0\n0,0,0\n{cells}\n"))
    assert frame.numbers(["a", "c"]).shape == (3, 2)
    with pytest.raises(UsageError, match=words):
        frame.numbers(["a", "b"])


def test_arrays_are_read_and_those_that_could_run_code_are_not(tmp_path):
    A = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "a.npy", A)
    frame = read_table(tmp_path / "a.npy")
    assert (frame.columns, frame.targets) == (("1", "2", "3"), ("3",))
    assert np.array_equal(frame.numbers(["3", "1"]), A[:, [2, 0]])
    np.savez(tmp_path / "a.npz", X=A, y=np.array(["u", "v", "u", "v"]))
    frame = read_table(tmp_path / "a.npz")
    assert frame.labels("y") == ["u", "v", "u", "v"]
    np.savez(tmp_path / "b.npz", X=A, y=A[:, :2])
    assert read_table(tmp_path / "b.npz").targets == ("y1", "y2")


def test_one_column_with_blanks_in_its_name_and_lists_of_numbers_as_text_are_read(tmp_path):
    assert read_table(write(tmp_path / "t.csv", "body mass\n3.5\n4\n")).columns == ("body mass",)
    frame = read_table(write(tmp_path / "t.csv", "a;b\n1,2,3;0\n4,5;1\n"))
    assert frame.labels("a") == ["1,2,3", "4,5"]


def refused(path, words):
    with pytest.raises(UsageError, match=words):
        read_table(path)


def test_arrays_of_another_kind_or_shape_are_told(tmp_path):
    place = tmp_path / "a.npy"
    np.save(place, np.array([{"a": 1}, None]), allow_pickle=True)
    refused(place, "holds Python objects, which can run code")
    for shape in ((2, 3, 4), (5,), (0, 3)):
        np.save(place, np.zeros(shape))
        refused(place, rf"has shape \({shape[0]},.*; legal is \(N, d \+ 1\)")
    np.save(place, np.zeros((3, 2), complex))
    refused(place, "is of type complex128")
    place.write_bytes(place.read_bytes()[:-5])
    refused(place, "cut or no file of numpy")
    place.write_bytes(b"")
    refused(place, "cut or no file of numpy")
    place = tmp_path / "a.npz"
    np.savez(place, A=np.zeros((3, 2)))
    refused(place, "holds A; legal are X and y")
    np.savez(place, X=np.zeros((3, 2)), y=np.zeros(4))
    refused(place, r"y of '.*a.npz' has shape \(4,\); legal is \(3,\)")
    np.savez(place, X=np.zeros((3, 2)), y=np.array([None] * 3))
    refused(place, "cannot be read: it holds Python objects")
    np.savez(place, X=np.zeros((3, 2, 2)))
    refused(place, r"X of '.*' has shape \(3, 2, 2\); legal is \(N, d\)")
    place.write_bytes(place.read_bytes()[:50])
    refused(place, "cut or no file of numpy")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_images_are_read_with_their_labels_and_their_test(tmp_path, ending):
    folder = images(tmp_path / "m", rows=6, test=4, ending=ending)
    frame = read_table(folder)
    assert frame.values.shape == (6, 13)
    assert frame.values[:, -1].tolist() == [0, 1, 0, 1, 0, 1]
    assert frame.test is not None
    assert frame.test.values.shape == (4, 13)
    alone = read_table(folder / f"t10k-images-idx3-ubyte{ending}")
    assert alone.test is None
    assert np.array_equal(alone.values, frame.test.values)


def test_images_that_are_cut_or_have_other_labels_are_told(tmp_path):
    folder = images(tmp_path / "m", rows=6)
    pixels, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    refused(labels, "holds labels; name the images")
    idx(labels, np.zeros(5))
    refused(folder, "has 5 labels and '.*' 6 images")
    whole = pixels.read_bytes()
    pixels.write_bytes(whole[:-3])
    refused(pixels, "holds 69 bytes behind its header, which says 6 x 3 x 4")
    pixels.write_bytes(whole[:6])
    refused(pixels, "holds 0 bytes behind its header")
    pixels.write_bytes(b"PK\3\4")
    refused(pixels, "is no idx file")
    idx(pixels, np.zeros((2, 2, 2)), kind=13)
    refused(pixels, "is of type 13; legal is 8")
    packed = idx(folder / "more-images-idx3-ubyte.gz", np.zeros((2, 2, 2)))
    packed.write_bytes(packed.read_bytes()[:-9])
    refused(packed, "cannot be unpacked")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no images in idx form")


def test_what_is_no_data_is_told(tmp_path):
    refused(tmp_path / "no.csv", "there is no data file '.*no.csv'; legal are .csv")
    refused(write(tmp_path / "t.xlsx", "x"), "ends in '.xlsx'; legal are .csv")


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(reading.importlib, "import_module", missing)
    refused("digits", r"cannot be loaded \(no sklearn.datasets\); install it with: pip install 'lissome\[sklearn\]'")
