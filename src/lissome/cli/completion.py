"""What a shell completes: values of options, told without torch, and the scripts of bash, zsh and fish."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import shellingham
import typer
from typer import completion

from lissome._errors import UsageError, unknown

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
THIS = "this"  # in the place of a shell: the one that runs
OPTIONS = ("--install-completion", "--show-completion")

# names whose homes need torch; tests hold them to those
FAMILIES = (
    "allen-cahn",
    "parabolic",
    "poisson",
    "helmholtz",
    "heat",
    "convection",
    "klein-gordon",
    "burgers",
    "allen-cahn-1d",
)
PAPERS = (
    "svd-pinns",
    "arcm",
    "sublora",
    "lotra",
    "kan-convergence",
    "dape",
    "dape-v2",
    "sa-softmax",
    "sepllm",
    "algoformer",
    "slim-kan",
)

completion.get_completion_inspect_parameters()  # so that the parser knows these shells


def names(*legal: str | Iterable[str]) -> Callable[[str], list[str]]:
    """Return the completion of one of these names, or of the last where commas separate several.

    >>> names("svd", ("lora", "lora-xs"))("svd,l")
    ['svd,lora', 'svd,lora-xs']
    """
    known = [name for each in legal for name in ([each] if isinstance(each, str) else each)]

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(last)]

    return complete


def named(words: list[str]) -> list[str]:
    """Name the shell where a person left it out, which the parser does not allow.

    >>> named(["--show-completion"]), named(["--show-completion", "zsh"])
    (['--show-completion', 'this'], ['--show-completion', 'zsh'])
    """
    return [*words, THIS] if len(words) == 1 and words[0] in OPTIONS else words


def _shell(text: str) -> str:
    """Return the name of a shell that is known."""
    if text == THIS:
        try:
            text = shellingham.detect_shell()[0]
        except shellingham.ShellDetectionFailure:
            raise UsageError(f"the shell that runs is not told; name one of {', '.join(SHELLS)}") from None
    if text not in SHELLS:
        raise unknown("shell", text, SHELLS)
    return text


def _install(ctx: typer.Context, param: typer.CallbackParam, text: str | None) -> None:
    if text is not None:
        completion.install_callback(ctx, param, _shell(text))


def _show(ctx: typer.Context, param: typer.CallbackParam, text: str | None) -> None:
    if text is not None:
        completion.show_callback(ctx, param, _shell(text))


def _option(name: str, callback: Callable[..., None], told: str) -> typer.models.OptionInfo:
    shells = names(SHELLS)
    return typer.Option(name, callback=callback, is_eager=True, metavar="[SHELL]", help=told, autocompletion=shells)


Install = Annotated[
    str | None,
    _option(OPTIONS[0], _install, "Let bash, zsh or fish complete what is typed; of no name, the shell that runs."),
]
Show = Annotated[str | None, _option(OPTIONS[1], _show, "Print what --install-completion would write.")]
