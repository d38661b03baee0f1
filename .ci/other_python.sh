#!/usr/bin/env bash
# The wheel under Python 3.12, as far as it goes without torch, whose build for it is gigabytes: all of it compiles, the
# command line names its verbs, their options and what a shell completes. The whole is step 5 of RELEASING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python=
for found in python3.12 "$HOME"/.pyenv/versions/3.12*/bin/python3.12; do  # a name may be there and lead nowhere
    if "$found" -c '' 2> /dev/null; then python=$found; fi
done
if [ -z "$python" ]; then
    echo "not tried: no Python 3.12 is installed here"
    exit 0
fi
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/own"
own=$place/own/bin
"$own/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt typer rich pydantic pyyaml shellingham
"$own/python" -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
cd "$place"
"$own/python" -W error -m compileall -q own/lib/python3.12/site-packages/lissome
"$own/lissome" --version
for verb in "" pde "pde solve" "lm train" "icl train" fit show; do
    # shellcheck disable=SC2086 # a verb of two words is two words
    "$own/lissome" $verb --help > /dev/null
done
for shell in bash zsh fish; do
    "$own/lissome" --show-completion $shell | grep -q _LISSOME_COMPLETE
done
echo "the wheel is as promised under $("$own/python" --version), without torch"
