"""Tasks solved symbol by symbol: a prompt is read strictly by its grammar, and the answers are worked out by hand."""

import ast
import operator

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def recall(words):
    """Return prompt length and answers of 'k1 v0 k2 v3 k2 ..': pairs until a key comes again."""
    told, place = {}, 0
    while words[place] not in told:
        key, value = words[place : place + 2]
        assert key[0] == "k"
        assert value[0] == "v"
        told[key] = value
        place += 2
    return ask(words, place, told)


def lookup(which):
    """Return a solver of 'k1:v0 k2:v3 k1:v5 k2 ..' for one of `earliest`, `recent`."""

    def solve(words):
        told, place = {}, 0
        while ":" in words[place]:
            key, value = words[place].split(":")
            told.setdefault(key, []).append(value)
            place += 1
        assert all(len(values) >= 2 and values[0] != values[-1] for values in told.values())
        return ask(words, place, {key: values[0 if which == "earliest" else -1] for key, values in told.items()})

    return solve


def ask(words, place, told):
    """Return prompt length and answers, where each key that was told is asked once; answers are due after keys."""
    asked = words[place::2]
    assert sorted(asked) == sorted(told), "each key once"
    return place, [(place + 2 * i, told[key]) for i, key in enumerate(asked)]


def string(answer):
    """Return a solver of '3 1 2 = ..' by a function of the list of words before the sign."""

    def solve(words):
        place = words.index("=")
        out = answer(words[:place])
        return place, [(place + i, word) for i, word in enumerate(out)]

    return solve


def parity(words):
    """Count the ones."""
    assert set(words) <= {"0", "1"}
    return ["1" if sum(word == "1" for word in words) % 2 else "0"]


def even_pairs(words):
    """Count the neighbours 01 and 10."""
    pairs = ["".join(words[i : i + 2]) for i in range(len(words) - 1)]
    return [str((pairs.count("01") + pairs.count("10")) % 2)]


def modular(modulus):
    """Return a solver that reads an expression by Python's own grammar and works it out in whole numbers."""

    def value(node):
        if isinstance(node, ast.Constant):
            assert node.value in range(modulus)
            return node.value
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))

    return lambda words: [str(value(ast.parse("".join(words), mode="eval").body) % modulus)]


def counted(words):
    """Sort by counting."""
    return [word for word in sorted(set(words), key=int) for _ in range(words.count(word))]


SOLVERS = {
    "recall": recall,
    "earliest": lookup("earliest"),
    "recent": lookup("recent"),
    "copy": string(lambda words: words),
    "reverse": string(lambda words: words[::-1]),
    "duplicate": string(lambda words: words + words),
    "sort": string(counted),
    "parity": string(parity),
    "even-pairs": string(even_pairs),
    "modular": string(modular(5)),
}
