"""What the page says of the keys that a model sees, and of the run that it began with."""

from lissome.report.language_sight import begun, layers, seen

LAYERS = [
    {"stages": "causal; softmax", "way": "sdpa", "seen": 1.0, "computed": 1.0},
    {"stages": "causal & window(8); softmax", "way": "compact", "seen": 0.2, "computed": 0.5},
]
ROW = {"sight": {"seen": 0.6, "computed": 0.75, "layers": LAYERS, "windows": 8, "length": 4096}}


def test_share_of_keys_and_of_work_are_tiles_where_not_all_is_seen():
    (keys, work) = seen(ROW)
    assert keys == ("keys in sight", "60%", "of full causal attention")
    assert work == ("work of attention", "75%", "of full causal attention, by sdpa, compact")
    assert seen({}) == seen({"sight": ROW["sight"] | {"seen": 1.0}}) == []
    assert seen({"sight": ROW["sight"] | {"computed": None}})[1] == ("work of attention", "–", "is not known")


def test_each_layer_is_a_row():
    told = layers(ROW)
    assert "in windows of 4,096 held-out tokens" in told
    assert "20% of the keys, 50% of the pairs computed, by compact: causal &amp; window(8); softmax" in told
    assert layers({}) == ""


def test_a_start_of_which_little_is_known_is_named():
    assert begun({"start": {"run": "a", "steps": None, "loss": None}}) == " It began with the weights of 'a'."
    assert begun({}) == ""
