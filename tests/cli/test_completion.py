"""What shells complete, by the words and variables that they really send; and which modules that loads."""

import json
import os
import subprocess
import sys

import pytest

from lissome import cli
from lissome.cli import completion
from lissome.pde import families
from lissome.recipes.replication import KNOWN
from tests.cli.command import COMMAND, one_sentence

DRIVER = """
import contextlib, io, json, os, sys
sys.argv[0] = "lissome"
from lissome import cli
def ask(words):
    out = io.StringIO()
    os.environ |= {"COMP_WORDS": "lissome " + words, "COMP_CWORD": str(len(words.split(" "))),
                   "_LISSOME_COMPLETE": "complete_bash"}
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([])
    return out.getvalue().split()
print(json.dumps([ask(words) for words in json.loads(sys.argv[1])]))
print([name for name in ("torch", "transformers", "numpy", "matplotlib", "scipy") if name in sys.modules])
"""
ASKED = {
    "": ["fit", "predict", "show", "compare", "demo", "papers", "replicate", "pde", "lm", "icl"],
    "pde s": ["solve"],
    "pde solve hea": ["heat"],
    "pde solve --constraint e": ["exact"],
    "pde solve heat --resu": ["--resume"],
    "pde solve heat --network ": ["mlp", "kan", "slim-kan"],
    "pde solve heat --optimizer gauss": ["gauss-newton"],
    "pde adapt run --method svd,la": ["svd,last"],
    "pde bench --family bur": ["burgers"],
    "pde bench --adapter svd-": ["svd-only"],
    "pde diagnose poi": ["poisson"],
    "fit table.csv --task c": ["classification"],
    "replicate sep": ["sepllm"],
    "lm train --preset ": ["tiny", "small", "125m", "350m"],
    "lm stream --cache s": ["separators", "sinks"],
    "lm ranks --rule sw": ["swap"],
    "icl train --model a": ["algoformer"],
    "icl evaluate run --shift ": ["scale", "skew", "noise"],
    "--show-completion z": ["zsh"],
    "show run": [],
    "pde solve --out ru": [],
}


def test_bash_completes_verbs_options_and_values_without_torch():
    done = subprocess.run([sys.executable, "-c", DRIVER, json.dumps([*ASKED])], capture_output=True, text=True)
    assert done.stderr == ""
    found, loaded = done.stdout.splitlines()
    assert dict(zip(ASKED, json.loads(found), strict=True)) == ASKED
    assert loaded == "[]"


def told(*words, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "_LISSOME_COMPLETE"} | variables
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("shell", "script", "found"),
    [
        ("zsh", "#compdef lissome", '_arguments \'*: :(("allen-cahn"\n"allen-cahn-1d"))\'\n'),
        ("fish", "complete --command lissome", "allen-cahn\nallen-cahn-1d\n"),
    ],
)
def test_a_shell_gets_its_own_script_and_its_own_form_of_the_answers(shell, script, found):
    code, out, err = told("--show-completion", shell)
    assert (code, err) == (0, "")
    assert out.startswith(script)
    assert f"_LISSOME_COMPLETE=complete_{shell}" in out
    asked = {"_TYPER_COMPLETE_ARGS": "lissome pde solve al", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert told(_LISSOME_COMPLETE=f"complete_{shell}", **asked)[:2] == (0, found)


def test_bash_takes_the_script_that_is_shown():
    code, out, _ = told("--show-completion", "bash")
    assert code == 0
    ask = 'COMP_WORDS=(lissome pde families --j); COMP_CWORD=3; _lissome_completion lissome; echo "${COMPREPLY[@]}"'
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{out}\n{ask}"], capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert (done.stdout, done.stderr) == ("--json\n", "")


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/lissome.sh"),
        ("zsh", ".zfunc/_lissome"),
        ("fish", ".config/fish/completions/lissome.fish"),
    ],
)
def test_a_script_is_installed_for_the_shell_that_is_named(tmp_path, shell, file):
    code, out, err = told("--install-completion", shell, HOME=str(tmp_path))
    assert (code, err) == (0, "")
    assert str(tmp_path / file) in out.replace("\n", "")
    assert f"complete_{shell}" in (tmp_path / file).read_text()


def test_an_unknown_shell_is_answered_with_the_legal_ones():
    code, out, err = told("--show-completion", "zhs")
    assert (code, out) == (2, "")
    assert "unknown shell 'zhs'; legal are: bash, zsh, fish, powershell, pwsh (did you mean 'zsh'?)" in one_sentence(
        err
    )


def test_a_shell_that_is_not_named_is_the_one_that_runs(monkeypatch, capsys):
    monkeypatch.setattr(completion.shellingham, "detect_shell", lambda: ("fish", "/usr/bin/fish"))
    with pytest.raises(SystemExit) as left:
        cli.main(["--show-completion"])
    assert left.value.code == 0
    assert "complete_fish" in capsys.readouterr().out

    def lost():
        raise completion.shellingham.ShellDetectionFailure

    monkeypatch.setattr(completion.shellingham, "detect_shell", lost)
    with pytest.raises(SystemExit) as left:
        cli.main(["--install-completion"])
    assert left.value.code == 2
    assert "the shell that runs is not told; name one of bash, zsh" in one_sentence(capsys.readouterr().err)


def test_the_names_that_are_completed_are_all_there_are():
    assert tuple(families()) == completion.FAMILIES
    assert tuple(KNOWN) == completion.PAPERS
