"""Families by name and by file; whatever is wrong with one is a sentence that names the line."""

import textwrap
from pathlib import Path

import pytest
import torch

from lissome._errors import UsageError
from lissome.pde import Family, Problem, families, load_family
from lissome.pde.registry import member
from tests.pde.members import FEW, FILE, cache

SHORT = {"points": FEW, "test_points": 20}
WHOLE = """
import torch
from lissome.pde import Ball, Box, Family, Parameter

class Mine(Family):
    name = "mine"
    parameters = (Parameter("k", 1.0, near=2.0, middle=3.0, far=4.0),)

    def domain(self):
        return Box((0.0,) * self.dimension, (1.0,) * self.dimension, time=(0.0, 1.0))

    def operator(self, u, p):
        return u.dt - self.k * u.laplacian

    def exact(self, p):
        return torch.exp(-p.t) * torch.cos(p.x).prod(1)
"""


def written(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


def changed(tmp_path, old, new):
    assert WHOLE.count(old) == 1
    return written(tmp_path, WHOLE.replace(old, new))


def line_of(path, text):
    lines = [number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    assert len(lines) == 1
    return lines[0]


def sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_every_family_is_found_by_its_name():
    for name, family in families().items():
        assert load_family(name) is family
        assert load_family(name.replace("-", "_")) is family
        assert issubclass(family, Family)
    assert len(families()) == 9


def test_an_unknown_family_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as error:
        load_family("helmholz")
    said = sentence(error)
    assert said.startswith("unknown family 'helmholz'; legal are: allen-cahn, parabolic, poisson,")
    assert "or the path of a .py file" in said
    assert said.endswith("(did you mean 'helmholtz'?)")


def test_the_whole_file_of_the_readme_size_is_a_family():
    lines = [line for line in FILE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 15
    family = load_family(str(FILE))(k=2)
    assert load_family(FILE)(k=2).values == family.values == {"k": 2.0}
    assert family.name == "decay"
    assert (family.dimension, family.known) == (1, True)


def test_a_file_is_found_from_the_current_folder(tmp_path, monkeypatch):
    written(tmp_path, WHOLE)
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "./mine.py", Path("mine.py")):
        assert load_family(name)(3).domain().coordinates == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]  # no bytecode is left in a person's folder
    written(tmp_path, WHOLE.replace("- self.k", "+ oops"))
    with pytest.raises(UsageError, match=r"^mine.py, line 13: operator of family 'mine' failed: NameError: .*oops"):
        Problem(load_family("mine.py")(), **SHORT)


def test_a_changed_file_is_read_anew(tmp_path):
    path = written(tmp_path, WHOLE)
    assert load_family(str(path)).name == "mine"
    path.write_text(WHOLE.replace('"mine"', '"ours"'))
    assert load_family(str(path)).name == "ours"


def test_two_files_of_one_name_keep_their_own_lines(tmp_path):
    (tmp_path / "other").mkdir()
    wrong = changed(tmp_path, "u.dt - self.k", "u.dt - nothing")
    right = written(tmp_path / "other", WHOLE)
    one, other = load_family(str(wrong)), load_family(str(right))
    Problem(other(), **SHORT)
    with pytest.raises(UsageError, match="failed: NameError") as error:
        Problem(one(), **SHORT)
    assert sentence(error).startswith(f"{wrong}, line {line_of(wrong, 'nothing')}:")


FILES = {
    "a syntax error": ("class Mine(:\n    pass\n", 1, "invalid syntax"),
    "a tab too many": ("x = 1\n    y = 2\n", 2, "unexpected indent"),
    "an error on import": ("import torch\n\ntorch.nothing()\n", 3, "AttributeError: .*nothing"),
    "an import of what is not there": ("\nimport nowhere_to_be_found\n", 2, "ModuleNotFoundError"),
    "an exit": ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
    "an error deeper down": ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError"),
    "no family": ("x = 1\n", 1, "there is no family here; legal is one class derived from lissome.pde.Family"),
    "only an imported family": ("from lissome.pde.zoo import Heat\n", 1, "there is no family here"),
    "an unfinished family": (
        "from lissome.pde import Family\n\nclass Mine(Family):\n    name = 'mine'\n",
        3,
        "family Mine does not say its domain, operator",
    ),
    "no name": (WHOLE.replace('    name = "mine"\n', ""), 5, "family Mine has no name; legal is a line such as"),
    "parameters without a comma": (
        WHOLE.replace("far=4.0),)", "far=4.0))"),
        5,
        "has parameters Parameter.*legal is a tuple",
    ),
    "a parameter that hides a method": (WHOLE.replace('"k"', '"exact"'), 5, "parameter 'exact', a name that is taken"),
    "a parameter that is no name": (WHOLE.replace('"k"', '"my k"'), 5, "parameter 'my k'"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_with_a_mistake_is_one_sentence(tmp_path, what):
    text, line, words = FILES[what]
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=words) as error:
        load_family(str(path))
    assert sentence(error).startswith(f"{path}, line {line}: ")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"^family file 'nowhere/mine.py' cannot be read: No such file or directory$"):
        load_family("nowhere/mine.py")
    with pytest.raises(UsageError, match=r"cannot be read: Is a directory"):
        load_family(str(tmp_path) + "/")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match=r"bytes.py, line \d+: "):
        load_family(str(tmp_path / "bytes.py"))


def test_a_file_with_two_families_names_both(tmp_path):
    path = written(tmp_path, WHOLE + "\nclass Second(Mine):\n    name = 'second'\n")
    with pytest.raises(UsageError) as error:
        load_family(str(path))
    assert sentence(error) == f"{path} defines 2 families, Mine (line 5), Second (line 18); legal is one"


def test_an_abstract_relative_is_no_second_family(tmp_path):
    path = written(tmp_path, WHOLE.replace("class Mine(Family)", "class Base(Family):\n    pass\n\nclass Mine(Base)"))
    assert load_family(str(path)).__name__ == "Mine"


HOME = "homogeneous = True\n    name"
MISTAKES = {
    "an operator of another shape": ("u.laplacian", "u.laplacian[:, None]", "operator", r"returned \(8, 8\) for"),
    "an operator that forgets to return": ("return u.dt", "u.dt", "operator", "returned NoneType for 8 points"),
    "an operator that is NaN": ("self.k * u", "torch.log(-p.t) * u", "operator", "it is nan at \\["),
    "an operator that forgets u": ("u.dt - self.k * u.laplacian", "p.t", "operator", "does not depend on u"),
    "an operator that raises": ("u.laplacian", "u.laplace", "operator", "AttributeError: .*laplace"),
    "an operator that reads too far": ("u.laplacian", "u.d(2)", "operator", "coordinate 2 .*legal are 0 to 1"),
    "a solution of another shape": (
        "torch.cos(p.x).prod(1)",
        "torch.ones(2, 1)",
        "exact",
        r"returned \(2, 8\) for 8 points; legal is one number per point",
    ),
    "a solution that is NaN": ("-p.t", "torch.sqrt(-p.t)", "exact", "it is nan at"),
    "a solution without a second derivative": (
        "torch.cos(p.x).prod(1)",
        "(p.x[:, 0] - p.x[:, 0]).abs().sqrt()",
        "exact",
        "a derivative of it is (nan|inf)",
    ),
    "a solution that hides from derivatives": (
        "    def exact(self, p):",
        "    @torch.no_grad()\n    def exact(self, p):",
        "exact",
        "cannot be differentiated",
    ),
    "a domain of another dimension": (
        "Box((0.0,) * self.dimension, (1.0,) * self.dimension, ",
        "Ball(1, ",
        "domain",
        "dimension is 1 and the family's 2; .*say dimensions = 1",
    ),
    "a domain that is none": ("return Box(", "Box(", "domain", "returned NoneType; legal is a Ball or a Box"),
    "an empty domain": ("(1.0,) * self", "(0.0,) * self", "domain", "is empty or endless; legal is low < high"),
    "a homogeneous operator that is NaN": ("self.k * u", "torch.log(-p.t) * u", "operator", "it is nan at"),
    "a homogeneous operator of another shape": (
        "u.laplacian",
        "u.laplacian[:, None]",
        "operator",
        r"returned \(8, 8\) for",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_family_with_a_mistake_is_one_sentence(tmp_path, what):
    old, new, method, words = MISTAKES[what]
    text = WHOLE.replace("name", HOME, 1) if "homogeneous" in what else WHOLE
    assert text.count(old) == 1
    path = written(tmp_path, text.replace(old, new))
    family = load_family(str(path))()
    with pytest.raises(UsageError, match=words) as error:
        Problem(family, **SHORT)
    said = sentence(error)
    assert said.startswith(f"{path}, line ")
    assert f": {method} of family 'mine' failed: " in said
    lines = path.read_text().splitlines()
    begin = line_of(path, f"def {method}")
    line = int(said.split(", line ")[1].split(":")[0])
    end = next((n for n in range(begin, len(lines)) if not lines[n].strip()), len(lines))
    assert begin - 1 <= line <= end


def test_mistakes_in_the_other_methods_are_told_too(tmp_path):
    more = {
        "data": "return p.x[:, 0] / 0",
        "weight": "return p.x",
        "velocity": "return 1.0",
    }
    for method, body in more.items():
        extra = "    order_in_time = 2\n" if method == "velocity" else ""
        path = written(tmp_path, WHOLE + f"\n{extra}    def {method}(self, p):\n        {body}\n")
        with pytest.raises(UsageError, match=f"{method} of family 'mine' failed: it (is|returned)"):
            Problem(load_family(str(path))(), **SHORT)
    path = written(tmp_path, WHOLE + "\n    def features(self, constraint):\n        return torch.nn.Linear(3, 2)\n")
    problem = Problem(load_family(str(path))(), constraint="boundary", **SHORT)
    with pytest.raises(UsageError, match=r"features of family 'mine' failed: Linear does not say .* its outputs"):
        _ = problem.inputs


def test_a_family_without_a_solution_says_what_is_missing(tmp_path):
    path = written(tmp_path, WHOLE[: WHOLE.index("    def exact")])
    with pytest.raises(UsageError) as error:
        Problem(load_family(str(path))(), **SHORT)
    assert sentence(error) == (
        f"{path}: exact of family 'mine' failed: family 'mine' has no exact solution: give it exact(p), or "
        "homogeneous = True and data(p)"
    )


def test_a_homogeneous_family_needs_no_solution(tmp_path):
    text = WHOLE.replace("name", HOME, 1).replace("def exact", "def data")
    family = load_family(str(written(tmp_path, text)))()
    assert not family.known
    problem = Problem(family, **SHORT)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    assert problem.evaluate(net).keys() == {"fresh"}
    assert problem.slice(net).keys() == {"slice_x", "slice_network"}


def test_an_operator_without_a_number_at_0_is_no_mistake(tmp_path):
    text = WHOLE.replace("name", HOME, 1).replace("u.laplacian", "u.laplacian / u.value")
    Problem(load_family(str(written(tmp_path, text)))(), **SHORT)


def test_a_family_made_where_there_is_no_file():
    space = {}
    exec(WHOLE.replace("u.laplacian", "u.laplace"), space)
    with pytest.raises(UsageError, match=r"^<string>, line 13: operator of family 'mine' failed: AttributeError"):
        Problem(space["Mine"](), **SHORT)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def __init__(self):\n        pass", "TypeError: .*__init__"),
        (
            "def __init__(self, *given, **more):\n        super().__init__(*given, **more)\n        1 / 0",
            "ZeroDivisionError",
        ),
    ],
)
def test_a_beginning_of_ones_own_that_fails_is_one_sentence(tmp_path, body, words):
    path = written(tmp_path, WHOLE + f"\n    {body}\n")
    with pytest.raises(UsageError, match=words) as error:
        member(path, None, {})
    said = sentence(error)
    assert said.startswith(f"{path}, line ")
    assert "__init__ of family 'mine' failed: " in said


def test_a_class_without_a_name_is_told_so_in_python_too():
    space = {}
    exec(WHOLE.replace('    name = "mine"\n', ""), space)
    with pytest.raises(UsageError, match="family Mine has no name"):
        space["Mine"]()


@pytest.mark.usefixtures(cache.__name__)
def test_constants_of_another_precision_are_found_before_training(tmp_path):
    path = changed(tmp_path, "u.laplacian", "(p.x @ torch.ones(2, dtype=torch.float64)) * u.laplacian")
    family = load_family(str(path))()
    Problem(family, **SHORT)
    with pytest.raises(UsageError, match=f"{path.name}, line 13: operator of family 'mine' failed: RuntimeError"):
        Problem(family, dtype=torch.float32, **SHORT)
