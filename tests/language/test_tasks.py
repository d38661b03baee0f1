"""Tasks against solvers that read symbols one by one; what is fed, what is scored, and what a guess is worth."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissome._errors import UsageError
from lissome._types import Divisible, Objective
from lissome.language.tasks import IGNORED, TASKS, task
from lissome.optim import Budget, Group, Method, fit
from tests.oracles.tasks import SOLVERS

MEMBERS = {name: task(name) for name in TASKS if name != "lookup"}
MEMBERS |= {which: task("lookup", which=which, keys=4) for which in ("earliest", "recent")}

every = pytest.mark.parametrize("name", MEMBERS)
few = settings(max_examples=30, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def legal(made, length):
    return max(made.least, min(length, made.most or length))


class Says(nn.Module):
    """What a function of tokens says, surely."""

    def __init__(self, size, answer):
        super().__init__()
        self.size, self.answer = size, answer

    def forward(self, tokens):
        return 50.0 * nn.functional.one_hot(self.answer(tokens).clamp(min=0), self.size)


class Layer(nn.Module):
    """One layer of causal attention; places are learned."""

    def __init__(self, size, width=32):
        super().__init__()
        self.embed, self.place = nn.Embedding(size, width), nn.Embedding(160, width)
        self.layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, size)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.layer(x, src_mask=mask, is_causal=True))


def test_every_task_has_a_solver():
    assert MEMBERS.keys() == SOLVERS.keys()


@every
@few
@given(length=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_answers_are_those_of_the_solver_and_due_at_its_places_alone(name, length, seed):
    made = MEMBERS[name]
    tokens, targets = made.draw(seeded(seed), 3, legal(made, length))
    for row, due in zip(tokens.tolist(), targets.tolist(), strict=True):
        first, answers = SOLVERS[name]([made.symbols[token] for token in row])
        expected = [IGNORED] * len(row)
        for place, answer in answers:
            expected[place] = made.symbols.index(answer)
        assert due == expected
        assert all(target == IGNORED for target in due[:first])  # a prompt is read before anything is asked


@every
@few
@given(length=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_answers_are_fed_right_after_they_were_due(name, length, seed):
    made = MEMBERS[name]
    tokens, targets = made.draw(seeded(seed), 3, legal(made, length))
    due = targets[:, :-1] != IGNORED
    assert torch.equal(tokens[:, 1:][due], targets[:, :-1][due])
    assert bool((targets[:, -1] != IGNORED).all())  # nothing is fed for nothing


@every
@few
@given(length=st.integers(1, 50), rows=st.integers(1, 5))
def test_tokens_are_of_the_vocabulary(name, length, rows):
    made = MEMBERS[name]
    tokens, targets = made.draw(seeded(), rows, legal(made, length))
    assert tokens.shape == targets.shape
    assert tokens.shape[0] == rows
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.is_contiguous()
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < made.size
    assert int(targets.max()) < made.size
    assert len(set(made.symbols)) == made.size


@every
def test_every_token_comes_up(name):
    made = MEMBERS[name]
    tokens, targets = made.draw(seeded(), 400, made.test[0])
    assert set(tokens.unique().tolist()) | set(targets.unique().tolist()) == {*range(made.size), IGNORED}


@pytest.mark.parametrize(
    ("name", "length", "width"),
    [
        ("recall", 8, 4 * 8 - 1),
        ("earliest", 24, 24 + 8 - 1),
        ("earliest", 5, 5 + 4 - 1),
        ("copy", 6, 6 + 6),
        ("duplicate", 6, 6 + 12),
        ("parity", 6, 6 + 1),
        ("modular", 7, 7 + 1),
        ("modular", 6, 5 + 1),
    ],
)
def test_a_row_has_the_tokens_that_its_task_tells_of(name, length, width):
    assert MEMBERS[name].draw(seeded(), 2, length)[0].shape == (2, width)


@every
def test_one_seed_is_one_batch(name):
    made = MEMBERS[name]
    first, again, other = (made.sample(seeded(seed), 16) for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in ("tokens", "targets"))
    assert first["tokens"].shape != other["tokens"].shape or not torch.equal(first["tokens"], other["tokens"])


@every
def test_global_chance_has_no_part(name):
    made = MEMBERS[name]
    state = torch.get_rng_state()
    made.sample(seeded(), 4)
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_training_has_all_its_lengths_and_no_others(name):
    made = task(MEMBERS[name].name, train=(5, 9))
    generator = seeded()
    seen = {made.sample(generator, 1)["tokens"].shape[1] for _ in range(200)}
    assert seen == {made.draw(generator, 1, length)[0].shape[1] for length in range(5, 10)}


@every
@pytest.mark.parametrize("length", [2, 5, 8])
def test_chance_is_what_the_best_guess_by_place_gets(name, length):
    made = MEMBERS[name]
    targets = made.draw(seeded(1), 20_000, length)[1]
    answers = targets[:, targets[0] != IGNORED]  # (n, answers)
    best = [column.bincount().max() / len(column) for column in answers.T]
    assert float(torch.stack(best).mean()) == pytest.approx(made.chance(length), abs=0.012)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_chance_of_an_expression_is_that_of_all_expressions(length):
    numbers, signs = range(5), "+-*"
    written = itertools.product(*(numbers if place % 2 == 0 else signs for place in range(length)))
    values = [int(SOLVERS["modular"]([*map(str, words), "="])[1][0][1]) for words in written]
    assert task("modular").chance(length) == pytest.approx(max(map(values.count, numbers)) / len(values), abs=1e-12)


@pytest.mark.parametrize(("letters", "length"), [(2, 7), (3, 5), (5, 4)])
def test_chance_of_sorting_is_that_of_all_strings(letters, length):
    places = list(zip(*map(sorted, itertools.product(range(letters), repeat=length)), strict=True))
    best = sum(max(map(place.count, range(letters))) for place in places) / (length * letters**length)
    assert task("sort", letters=letters).chance(length) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", ["parity", "even-pairs"])
def test_answers_are_balanced_and_no_single_bit_betrays_them(name):
    n = 20_000
    tokens, targets = MEMBERS[name].draw(seeded(2), n, 12)
    answer = targets[:, -1].double()
    assert float(answer.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(4 * n))
    agree = (tokens[:, :-1] == targets[:, -1:]).double().mean(0)
    assert float((agree - 0.5).abs().max()) < 5 / math.sqrt(4 * n)


def test_questions_come_in_an_order_of_their_own():
    n, length = 20_000, 5
    tokens = task("recall").draw(seeded(), n, length)[0]
    told, asked = tokens[:, : 2 * length : 2], tokens[:, 2 * length :: 2]
    same = (told[:, :, None] == asked[:, None, :]).double().mean(0)  # (told, asked)
    assert float((same - 1 / length).abs().max()) < 5 * math.sqrt(0.16 / n)


def test_asked_keys_are_apart_in_their_first_and_last_value_and_occur_alike():
    n, length, keys, values = 4000, 24, 4, 16
    tokens = task("lookup", keys=keys).draw(seeded(), n, length)[0][:, :length]
    counts = torch.stack([(tokens // values == key).sum(1) for key in range(keys)], 1).double()  # (n, keys)
    assert int(counts.min()) >= 2
    assert counts.mean(0).tolist() == pytest.approx([length / keys] * keys, abs=0.2)
    at = torch.stack([(tokens % values == value).sum() for value in range(values)]).double() / tokens.numel()
    assert at.tolist() == pytest.approx([1 / values] * values, abs=0.005)


def test_which_changes_answers_alone():
    (early, first), (late, last) = (
        task("lookup", which=which).draw(seeded(), 50, 12) for which in ("earliest", "recent")
    )
    assert torch.equal(early[:, :12], late[:, :12])
    asked = first != IGNORED
    assert torch.equal(early[asked], late[asked])
    assert not bool((first[asked] == last[asked]).any())


@every
def test_a_task_is_an_objective_that_can_be_divided(name):
    assert isinstance(MEMBERS[name], Objective)
    assert isinstance(MEMBERS[name], Divisible)


@every
def test_a_model_that_knows_scores_one_and_one_that_errs_scores_none(name):
    made = task(MEMBERS[name].name, train=(4, 8), test=(8,), rows=20)
    batch = made.sample(seeded(), 20)
    knows = Says(made.size, lambda tokens: batch["targets"])
    errs = Says(made.size, lambda tokens: (batch["targets"] + 1) % made.size)
    assert float(made.loss(knows, batch)) < 1e-12
    assert float(made.loss(errs, batch)) == pytest.approx(50)
    assert made.score(knows, batch["tokens"], batch["targets"]) == (1.0, 1.0)
    assert made.score(errs, batch["tokens"], batch["targets"]) == (0.0, 0.0)


@every
def test_loss_is_the_mean_over_scored_places(name):
    made = MEMBERS[name]
    batch = made.sample(seeded(), 6)
    logits = torch.randn(*batch["tokens"].shape, made.size, generator=seeded(1), dtype=torch.float64)
    by_hand = [
        float(logits[i, t].logsumexp(0) - logits[i, t, target])
        for i, row in enumerate(batch["targets"].tolist())
        for t, target in enumerate(row)
        if target != IGNORED
    ]
    found = made.loss(lambda tokens: logits, batch)
    assert float(found) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-12)


def test_accuracy_counts_tokens_and_exact_counts_rows():
    made = task("copy", letters=2)
    tokens, targets = made.draw(seeded(), 4, 3)
    said = targets.clone()
    said[0, 3] ^= 1  # one of twelve answers, in one of four rows
    said[1, 0] = 0  # not asked
    assert made.score(Says(made.size, lambda _: said), tokens, targets) == pytest.approx((11 / 12, 3 / 4))


def test_rows_are_evaluated_some_at_once_with_the_same_result(monkeypatch):
    made = task("sort", test=(12,), rows=50)
    model, sizes = Layer(made.size), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = made.evaluate(model)
    assert sizes == [50]
    monkeypatch.setattr("lissome.language.tasks.definition.PAIRS", 24**2 * 7)
    assert made.evaluate(model) == whole
    assert sizes[1:] == [7] * 7 + [1]


def test_evaluation_repeats_itself_and_trains_nothing():
    made = task("recall", rows=40)
    model = Layer(made.size)
    model.head = nn.Sequential(nn.Dropout(0.5), model.head)  # would tell if it were left on
    figures = made.evaluate(model)
    assert list(figures) == [f"{figure}/{length}" for length in (8, 16, 32) for figure in ("accuracy", "exact")]
    assert figures == made.evaluate(model) == task("recall", rows=40).evaluate(model)
    assert figures != task("recall", rows=40, seed=1).evaluate(model)
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("count", [1, 3, 7])
def test_loss_is_the_weighted_sum_over_parts(count):
    made = task("recall")
    batch, model = made.sample(seeded(), 7), Layer(made.size).double()
    parts = made.divide(batch, count)
    assert len(parts) == count
    assert torch.equal(torch.cat([part["tokens"] for part, _ in parts]), batch["tokens"])
    whole = sum(weight * made.loss(model, part) for part, weight in parts)
    torch.testing.assert_close(whole, made.loss(model, batch))


@every
def test_a_task_can_be_copied_and_sent(name):
    made = MEMBERS[name]
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert twin.describe() == made.describe()
        assert all(map(torch.equal, twin.draw(seeded(), 2, 8), made.draw(seeded(), 2, 8)))


def test_rows_are_shown_in_symbols():
    made = task("copy")
    tokens, targets = torch.tensor([[4, 7, 8, 4], [1, 1, 8, 1]]), torch.tensor([[-100, -100, 4, 7], [-100, -100, 1, 1]])
    assert made.show(tokens) == "4 7 = 4\n1 1 = 1"
    assert made.show(tokens, targets) == "4 7 = [4] [7]\n1 1 = [1] [1]"
    assert made.show(tokens[0], targets[0]) == "4 7 = [4] [7]"


@every
def test_description_has_an_example_and_the_level_of_chance(name):
    made = MEMBERS[name]
    first, example, last = made.describe().splitlines()
    assert first == f"{made.name}: {made.what}"
    words = example.replace("[", "").replace("]", "").split()
    assert set(words) <= set(made.symbols)
    assert example.strip() == made.example()
    assert all(f"{made.chance(length):.3f} at {length}" in last for length in made.test)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("recal", {}, "unknown task 'recal'; legal are: recall, .* (did you mean 'recall'?)"),
        (
            "recall",
            {"key": 3},
            "unknown setting of the task 'recall': 'key'; legal are: keys, .* (did you mean 'keys'?)",
        ),
        (
            "lookup",
            {"which": "latest"},
            "unknown which of the task 'lookup': 'latest'; legal are: earliest, recent",
        ),
        ("recall", {"keys": 16}, "length 32 of the task 'recall'; legal are 1 to 16"),
        ("recall", {"keys": 0}, "keys=0 of the task 'recall'; legal is 1 or more"),
        ("recall", {"keys": "many"}, "keys='many' of the task 'recall'; legal is 1 or more"),
        ("recall", {"values": 1}, "values=1 of the task 'recall'; legal is 2 or more"),
        ("lookup", {"train": (1, 8)}, "length 1 of the task 'lookup'; legal are at least 2"),
        ("lookup", {"keys": 0}, "keys=0 of the task 'lookup'; legal is 1 or more"),
        ("copy", {"letters": 1}, "letters=1 of the task 'copy'; legal is 2 or more"),
        ("modular", {"modulus": 1}, "modulus=1 of the task 'modular'; legal is 2 or more"),
        ("parity", {"train": (9, 2)}, r"train=\(9, 2\) of the task 'parity'; legal are two lengths, the least and"),
        ("parity", {"train": 9}, "train=9 of the task 'parity'; legal are two lengths"),
        ("parity", {"test": ()}, r"test=\(\) of the task 'parity'; legal are one length or more"),
        ("parity", {"test": "40"}, "test='40' of the task 'parity'; legal are one length or more"),
        ("parity", {"test": (0,)}, "length 0 of the task 'parity'; legal are at least 1"),
        ("parity", {"rows": 0}, "rows=0 of the task 'parity'; legal is 1 or more"),
    ],
)
def test_wrong_settings_are_named(name, changes, sentence):
    with pytest.raises(UsageError, match=sentence.replace("(did", r"\(did").replace("'?)", r"'\?\)")):
        task(name, **changes)


def test_wrong_calls_are_named():
    made = task("recall", keys=4, test=(4,), train=(1, 4))
    with pytest.raises(UsageError, match="length 5 of the task 'recall'; legal are 1 to 4"):
        made.draw(seeded(), 1, 5)
    with pytest.raises(UsageError, match="a batch of 3 rows of the task 'recall' in 4 parts; legal are 1 to 3"):
        made.divide(made.sample(seeded(), 3), 4)
    with pytest.raises(
        UsageError, match=r"the model made \(3, 20\) of tokens \(3, \d+\); the task 'recall' needs logits"
    ):
        made.loss(lambda tokens: torch.zeros(3, 20), made.sample(seeded(), 3))
    with pytest.raises(UsageError, match="with V at least 20"):
        made.loss(lambda tokens: torch.zeros(*tokens.shape, 19), made.sample(seeded(), 3))


def test_settings_of_a_file_are_taken():
    made = task("even_pairs", train=[1, 20], test=[20, 100], rows=8, seed=3)
    assert (made.name, made.train, made.test, made.rows, made.seed) == ("even-pairs", (1, 20), (20, 100), 8, 3)


def test_one_layer_learns_to_write_backwards():
    made = task("reverse", letters=4, train=(6, 6), test=(6,), rows=100)
    model = Layer(made.size)
    held = made.sample(seeded(99), 100)
    assert made.loss(model, held) > math.log(4) - 0.1
    method = Method((Group(lr=1e-2),), schedule="cosine", resample_every=1, points=32)
    fit(model, made, method, Budget(steps=200), evaluate_every=200, progress=False)
    assert made.loss(model, held) < 0.05
    figures = made.evaluate(model)
    assert min(figures["accuracy/6"], figures["exact/6"]) > 0.95
