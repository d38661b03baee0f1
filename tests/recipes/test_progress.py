"""A bar that counts what is over, seen or not."""

from lissome.recipes.progress import Bar


def test_a_bar_counts_its_steps_and_says_what_is_done(capsys):
    with Bar(False) as bar:
        bar.expect(3)
        bar.expect(4)
        bar.step("one")
        bar.say("two")
    (task,) = bar.progress.tasks
    assert (task.total, task.completed, task.description) == (7, 1, "two")
    assert capsys.readouterr() == ("", "")


def test_a_descent_that_ends_early_is_over_as_a_whole():
    with Bar(False) as bar:
        bar.expect(9)
        counted = bar.counting(5)
        for k in (1, 2):
            counted.tick(k, 0.5)
        assert bar.progress.tasks[0].completed == 2
        counted.done()
        counted.done()
    assert bar.progress.tasks[0].completed == 5
