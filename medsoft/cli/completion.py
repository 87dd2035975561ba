"""The verb ``completion``: a script for the shell that knows all verbs, their options, and what these take.

It is made from the table of the help, once: pressing Tab starts no Python. Packages that complete for argparse (shtab,
argcomplete) would ask the parsers themselves, which takes the seconds that importing the classes takes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from medsoft.parsing.configurations import shipped_configurations
from medsoft.parsing.help import TABLE

CHOICES = re.compile(r"one of ([\w.+-]+(?:, [\w.+-]+)*)")


@dataclass(frozen=True)
class Completed:
    """An option as a shell offers it.

    Attributes:
        name: without ``--``.
        values: what it takes, where these are a few words.
        text: what it is for, in a sentence.
    """

    name: str
    values: tuple[str, ...]
    text: str


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script that completes verbs, options and their values.

    Args:
        shell: The shell: bash, zsh or fish.
    """
    from medsoft.cli.main import VERBS

    verbs = {verb: found.text for verb, found in VERBS.items()}
    options = options_of_verbs()
    print(_fish(verbs, options) if shell == "fish" else _bash(verbs, options, shell))


def options_of_verbs() -> dict[str, list[Completed]]:
    """By verb its options; of a verb that a configuration decides on, those of every class that it can name."""
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    of_classes = [option for by_name in table["classes"].values() for options in by_name.values() for option in options]
    found = {}
    for verb, page in table["verbs"].items():
        own = [option for _, options in page["groups"] for option in options]
        with_classes = any(option["name"] == "use" for option in own)
        unique = {option["name"]: _completed(option) for option in [*own, *(of_classes if with_classes else [])]}
        found[verb] = [*unique.values(), Completed("help", ("all",), "Show the options.")]
    return found


def _completed(option: dict[str, Any]) -> Completed:
    name, kind = option["name"], option["kind"]
    values: tuple[str, ...] = ()
    if name == "config":
        values = tuple(shipped_configurations())
    elif chosen := CHOICES.search(kind):
        values = tuple(chosen[1].split(", "))
    elif kind.startswith("true or false"):
        values = ("true", "false")
    sentence = re.split(r"(?<=[.;:])\s", str(option["text"]), maxsplit=1)[0].rstrip(".;:")
    return Completed(name, values, sentence)


def _bash(verbs: dict[str, str], options: dict[str, list[Completed]], shell: str) -> str:
    """One function for both shells: zsh has bash's completion as a module."""
    lines = [
        f"# Completion of medsoft for {shell}; medsoft completion {shell} has printed it.",
        *(["autoload -Uz bashcompinit && bashcompinit"] if shell == "zsh" else []),
        "_medsoft_options() {",
        '  case "$1" in',
        *(f"    '{verb}') echo '{' '.join(f'--{one.name}' for one in of)}' ;;" for verb, of in options.items()),
        "  esac",
        "}",
        "_medsoft_values() {",
        '  case "$1" in',
    ]
    by_values: dict[tuple[str, ...], list[str]] = {}
    for verb, of in options.items():
        for one in of:
            if one.values:
                by_values.setdefault(one.values, []).append(f"'{verb} --{one.name}'")
    lines += [f"    {'|'.join(names)}) echo '{' '.join(values)}' ;;" for values, names in by_values.items()]
    lines += ["  esac", "}", "_medsoft_next() {", '  case "$1" in']
    lines += [f"    '{before}') echo '{' '.join(words)}' ;;" for before, words in _next_words(verbs).items()]
    lines += ["  esac", "}", _BASH]
    return "\n".join(lines)


_BASH = r"""_medsoft_verb() {
  local verb= word
  for word in "$@"; do
    case " $(_medsoft_next "$verb") " in
      *" $word "*) verb="${verb:+$verb }$word" ;;
      *) break ;;
    esac
  done
  echo "$verb"
}
_medsoft() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb next values
  if [ "$cur" = "=" ]; then cur=; fi
  if [ "$prev" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi
  verb="$(_medsoft_verb "${COMP_WORDS[@]:1:$((COMP_CWORD-1))}")"
  values="$(_medsoft_values "$verb $prev")"
  next="$(_medsoft_next "$verb")"
  COMPREPLY=()
  case "$cur" in
    -*) COMPREPLY=($(compgen -W "$(_medsoft_options "$verb")" -- "$cur")); return ;;
  esac
  if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$cur"))
  elif [ -n "$next" ]; then COMPREPLY=($(compgen -W "$next" -- "$cur")); fi
  if [ "${#COMPREPLY[@]}" -eq 0 ]; then COMPREPLY=($(compgen -f -- "$cur")); fi
}
complete -o filenames -F _medsoft medsoft"""


def _next_words(verbs: dict[str, str]) -> dict[str, list[str]]:
    """By the words of a verb so far, those that can follow."""
    following: dict[str, list[str]] = {}
    for verb in verbs:
        words = verb.split()
        for at, word in enumerate(words):
            known = following.setdefault(" ".join(words[:at]), [])
            if word not in known:
                known.append(word)
    return following


def _fish(verbs: dict[str, str], options: dict[str, list[Completed]]) -> str:
    following = _next_words(verbs)
    lines = ["# Completion of medsoft for fish; medsoft completion fish has printed it.", "function __medsoft_verb"]
    lines += ["    set -l verb", "    for word in (commandline -opc)[2..-1]", '        switch "$verb"']
    for before, words in following.items():
        lines += [f"            case '{before}'", f"                contains -- $word {' '.join(words)}; or break"]
    lines += ["            case '*'", "                break", "        end"]
    lines += ['        set verb (string trim -- "$verb $word")', "    end", '    echo -- "$verb"', "end"]
    lines += ["function __medsoft_at", '    test (__medsoft_verb | string collect) = "$argv"', "end"]
    for before, words in following.items():
        for word in words:
            text = verbs.get(f"{before} {word}".strip(), "")
            lines.append(f"complete -c medsoft -f -n '__medsoft_at {before}' -a {word} -d {_quoted(text)}")
    for verb, of in options.items():
        for one in of:
            takes = f"-x -a '{' '.join(one.values)}'" if one.values and one.name != "config" else "-r"
            if one.name == "config":
                takes = f"-r -a '{' '.join(one.values)}'"
            lines.append(f"complete -c medsoft -n '__medsoft_at {verb}' -l {one.name} {takes} -d {_quoted(one.text)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
