"""Recipes by Hypothesis: every stage, rules joined at random, heads, groups and lengths."""

from dataclasses import dataclass

from hypothesis import strategies as st

from lissome.attention import Attention, attention
from lissome.testing import Case, made

POSITIONS = ["none", "rotary", "rotary(base=500.0)", "alibi", "kerple", "kerple(power)", "fire"]
RULES = [
    *("causal", "everything", "window(1)", "window(3)", "every_kth(2)", "every_kth(5)"),
    *("sinks(1)", "sinks(3)", "separators(3)", "separators(1, 6)"),
]


@dataclass(frozen=True)
class Plan:
    """The names of the stages, and the sizes; the recipe is made of them, so that a failure shows what it was."""

    position: str
    refine: str
    normalize: str
    validity: str
    case: Case

    def recipe(self) -> Attention:
        def make(heads: int) -> Attention:
            names = {"refine": self.refine, "normalize": self.normalize, "validity": self.validity}
            return attention(heads, self.case.dimension, position=self.position, length=self.case.length, **names)

        return made(make, self.case.heads, self.case.seed)


def plans(*, hidden="masked", detached=True, refine=None, summed=True):
    """Draw a plan.

    Args:
        hidden: of DAPE.
        detached: whether extrema may be held constant.
        refine: the refinement, if it is given.
        summed: whether weights may be as many large scores, whose sum leaves half precision.
    """
    adjusted = [f"self_adjust({variant})" for variant in (1, 2, 3, 4)]
    if detached:
        adjusted += [f"self_adjust({variant}, detach_extrema=True)" for variant in (2, 3, 4)]
    linear = ["linear(mean=True)"] + ["linear"] * summed
    dape = st.builds(
        lambda kernel, form, width: f"dape({kernel}, form={form}, hidden={hidden}, width={width})",
        st.sampled_from([1, 3, 5, 9]),
        st.sampled_from(["residual", "plain", "sum"]),
        st.sampled_from([1, 4, 32]),
    )
    return st.builds(
        Plan,
        st.sampled_from(POSITIONS),
        st.just(refine) if refine else st.just("none") | dape,
        st.just("softmax") | st.sampled_from(adjusted) | st.sampled_from(linear),
        st.just("causal") | st.recursive(st.sampled_from(RULES), _joined, max_leaves=4),
        _cases(),
    )


def _joined(rules):
    both = st.builds("({} & {})".format, rules, rules)
    return both | st.builds("({} | {})".format, rules, rules)


@st.composite
def _cases(draw):
    groups, share = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return Case(
        heads=groups * share,
        groups=groups,
        dimension=2 * draw(st.integers(1, 3)),
        length=draw(st.integers(2, 9)),
        batch=draw(st.integers(2, 3)),
        seed=draw(st.integers(0, 10_000)),
    )
