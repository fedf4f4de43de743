"""Completion scripts for shells, made from the commands themselves.

A script is static and starts no Python. It completes commands, options, choices, file names, and the names of
endpoints, which it reads from the person's file itself. `Grammar` is what the command line takes, as plain values; one
function a shell writes it down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import click

# What a word may be.
Kind = Literal["flag", "file", "choice", "text"]
Argument = Literal["place", "remote", "choice", "none"]

SHELLS: Final = ("bash", "zsh", "fish")

_FILE_WORDS: Final = ("FILE", "KEYFILE", "DIRECTORY")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command.

    Attributes:
        names: as typed, `-r` and `--recurse`.
        kind: what comes behind it: nothing (a flag), a file, one of `choices`, or some other text.
        choices: in order.
        help: one line.
    """

    names: tuple[str, ...]
    kind: Kind
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Subcommand:
    """A command.

    Attributes:
        names: its name first, then its aliases.
        help: one line.
        options: all of them, in the order of the help.
        argument: what its arguments are: places here or on a server, places on a server, one of `choices`, or nothing
            that could be completed.
        choices: of the argument.
        inner: commands of its own, one of which is what comes next.
    """

    names: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    argument: Argument
    choices: tuple[str, ...] = ()
    inner: tuple[Subcommand, ...] = ()


@dataclass(frozen=True, slots=True)
class Grammar:
    """The whole command line.

    Attributes:
        options: before the command.
        commands: in the order of the help.
    """

    options: tuple[Option, ...]
    commands: tuple[Subcommand, ...]


def read_grammar(group: click.Group, aliases: dict[str, str], help_lines: dict[str, str]) -> Grammar:
    """What `group` takes. Loads every command.

    Args:
        group: the command line.
        aliases: other names of commands.
        help_lines: of the commands, by name.
    """
    context = click.Context(group, info_name="uftp")
    found = []
    for name in group.list_commands(context):
        others = tuple(alias for alias, meant in aliases.items() if meant == name)
        found.append(_subcommand(group, context, name, others, help_lines.get(name, "")))
    return Grammar(_options(group, context), tuple(found))


def _subcommand(
    group: click.Group, context: click.Context, name: str, others: tuple[str, ...], help_line: str
) -> Subcommand:
    command = group.get_command(context, name)
    if command is None:
        raise LookupError(name)
    own = click.Context(command, info_name=name, parent=context)
    options = _options(command, own)
    if isinstance(command, click.Group):
        inner = []
        for other in command.list_commands(own):
            described = command.get_command(own, other)
            line = described.get_short_help_str(limit=200).rstrip(".") if described is not None else ""
            inner.append(_subcommand(command, own, other, (), line))
        names = tuple(one.names[0] for one in inner)
        return Subcommand((name, *others), help_line, options, "choice", names, tuple(inner))
    kind, choices = _argument([parameter for parameter in command.params if isinstance(parameter, click.Argument)])
    return Subcommand((name, *others), help_line, options, kind, choices)


def _options(command: click.Command, context: click.Context) -> tuple[Option, ...]:
    found = []
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        kind: Kind = "text"
        choices: tuple[str, ...] = ()
        if parameter.is_flag or parameter.count:
            kind = "flag"
        elif isinstance(parameter.type, click.Choice):
            kind, choices = "choice", tuple(str(choice) for choice in parameter.type.choices)
        elif (parameter.metavar or "").removeprefix("@") in _FILE_WORDS:
            kind = "file"
        names = (*parameter.opts, *parameter.secondary_opts)
        text = " ".join((parameter.help or "").split())
        found.append(Option(names, kind, choices, text.rstrip(".")))
    return tuple(found)


def _argument(arguments: list[click.Argument]) -> tuple[Argument, tuple[str, ...]]:
    if not arguments:
        return "none", ()
    first = arguments[0]
    if isinstance(first.type, click.Choice):
        return "choice", tuple(str(choice) for choice in first.type.choices)
    # Sources and targets are places here or there, unless the command calls them remote.
    is_local_too = (first.metavar or "").startswith("SOURCE") and not (first.name or "").startswith("remote")
    return ("place" if is_local_too else "remote"), ()


def script(grammar: Grammar, shell: str) -> str:
    """The script for one of `SHELLS`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](grammar)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _words(texts: Iterable[str]) -> str:
    return " ".join(texts)


# The tables [endpoints.NAME], but not those beneath them; sed is everywhere, and takes a millisecond.
_ENDPOINTS: Final = (
    r"sed -n 's/^[[:space:]]*\[[[:space:]]*endpoints\.\(\"\{0,1\}\)\([A-Za-z0-9_-][A-Za-z0-9_-]*\)"
    r"\1[[:space:]]*\][[:space:]]*\(#.*\)\{0,1\}$/\2/p'"
)
_CONFIG: Final = '"${UFTP_CONFIG:-${XDG_CONFIG_HOME:-$HOME/.config}/uftp/config.toml}"'


# -- bash ---------------------------------------------------------------------------------------------------------

_BASH: Final = r"""# Completion of uftp for bash. Made by `uftp completion bash`; make it again after an upgrade.

_uftp_endpoints() {
    @ENDPOINTS@ @CONFIG@ 2>/dev/null
}

# What may follow the command in $1: its options, those with a value, and what its arguments are.
_uftp_command() {
    case $1 in
@COMMANDS@
    *) return 1 ;;
    esac
}

_uftp_value() {
    case $1 in
@VALUES@
    *) kind=text ;;
    esac
}

_uftp() {
    local cur=${COMP_WORDS[COMP_CWORD]} previous= before= command= word position
    local options= valued= argument=none choices= inner= kind= values=
    (( COMP_CWORD > 0 )) && previous=${COMP_WORDS[COMP_CWORD-1]}
    (( COMP_CWORD > 1 )) && before=${COMP_WORDS[COMP_CWORD-2]}
    COMPREPLY=()
    for (( position = 1; position < COMP_CWORD; position++ )); do
        word=${COMP_WORDS[position]}
        [[ $word == -* ]] && continue
        command=${command:+$command }$word
        inner=
        _uftp_command "$command" && [[ -n $inner ]] || break
    done
    if [[ -z $command ]]; then
        if [[ $cur == -* ]]; then
            COMPREPLY=( $(compgen -W "@TOP_OPTIONS@" -- "$cur") )
        else
            COMPREPLY=( $(compgen -W "@TOP_COMMANDS@" -- "$cur") )
        fi
        return 0
    fi
    _uftp_command "$command" || return 0
    # bash takes --option=value for three words.
    if [[ $cur == "=" && $previous == --* ]]; then
        cur= ; before=$previous ; previous="="
    fi
    if [[ $previous == "=" && $before == --* ]]; then
        previous=$before
    fi
    if [[ $previous == -* && " $valued " == *" $previous "* ]]; then
        _uftp_value "$command:$previous"
        case $kind in
        choice) COMPREPLY=( $(compgen -W "$values" -- "$cur") ) ;;
        file) compopt -o filenames 2>/dev/null; local IFS=$'\n'; COMPREPLY=( $(compgen -f -- "$cur") ) ;;
        esac
        return 0
    fi
    if [[ $cur == -* ]]; then
        COMPREPLY=( $(compgen -W "$options" -- "$cur") )
        return 0
    fi
    # Behind a colon is a path on a server, which only the server knows.
    [[ $cur == ":" || $previous == ":" || $cur == *:* ]] && return 0
    case $argument in
    choice) COMPREPLY=( $(compgen -W "$choices" -- "$cur") ) ;;
    place|remote)
        local IFS=$'\n'
        local names=( $(compgen -W "$(_uftp_endpoints)" -- "$cur") )
        if [[ $argument == place ]]; then
            compopt -o filenames 2>/dev/null
            COMPREPLY=( $(compgen -f -- "$cur") )
        fi
        for word in "${names[@]}"; do
            COMPREPLY+=( "$word:" )
        done
        if (( ${#names[@]} )); then
            compopt -o nospace 2>/dev/null
        fi
        ;;
    esac
    return 0
}

complete -F _uftp uftp
"""


def _flat(commands: Iterable[Subcommand], before: tuple[str, ...] = ("",)) -> Iterator[tuple[list[str], Subcommand]]:
    """All commands, those inside of others too, each with what has to be typed for it."""
    for command in commands:
        typed = [f"{first} {name}".strip() for first in before for name in command.names]
        yield typed, command
        yield from _flat(command.inner, tuple(typed))


def _bash(grammar: Grammar) -> str:
    commands, values = [], []
    for typed, command in _flat(grammar.commands):
        options = _words(name for option in command.options for name in option.names)
        valued = _words(name for option in command.options if option.kind != "flag" for name in option.names)
        names = "|".join(map(_pattern, typed))
        lines = [f"options={_quote(options)}", f"valued={_quote(valued)}", f"argument={command.argument}"]
        if command.choices:
            lines.append(f"choices={_quote(_words(command.choices))}")
        if command.inner:
            lines.append("inner=yes")
        commands.append(f"    {names})\n        " + "\n        ".join(lines) + " ;;")
        for option in command.options:
            if option.kind in ("choice", "file"):
                patterns = "|".join(f"{_pattern(name)}:{flag}" for name in typed for flag in option.names)
                values.append(f"    {patterns}) kind={option.kind} values={_quote(_words(option.choices))} ;;")
    return _filled(
        _BASH,
        COMMANDS="\n".join(commands),
        VALUES="\n".join(values),
        TOP_OPTIONS=_words(name for option in grammar.options for name in option.names),
        TOP_COMMANDS=_words(name for command in grammar.commands for name in command.names),
    )


def _pattern(words: str) -> str:
    """Words as a pattern of the shell."""
    return words.replace(" ", "\\ ")


def _filled(template: str, **parts: str) -> str:
    text = template
    for name, part in {"ENDPOINTS": _ENDPOINTS, "CONFIG": _CONFIG, **parts}.items():
        text = text.replace(f"@{name}@", part)
    return text


# -- zsh ----------------------------------------------------------------------------------------------------------

_ZSH: Final = r"""#compdef uftp
# Completion of uftp for zsh. Made by `uftp completion zsh`; make it again after an upgrade.

_uftp_endpoints() {
    local -a names
    names=( ${(f)"$(@ENDPOINTS@ @CONFIG@ 2>/dev/null)"} )
    (( $#names )) && compadd -S: -q -- $names
}

_uftp_places() {
    _alternative 'files:file:_files' 'endpoints:endpoint:_uftp_endpoints'
}

_uftp() {
    local curcontext="$curcontext" state line
    local -a commands
    typeset -A opt_args
    commands=(
@COMMAND_LINES@
    )
    _arguments -C \
@TOP_OPTIONS@
        '1:command:->command' \
        '*::argument:->argument' && return 0
    case $state in
    command) _describe -t commands command commands ;;
    argument)
        case $words[1] in
@COMMANDS@
        esac
        ;;
    esac
}

if [[ ${funcstack[1]} == _uftp ]]; then
    _uftp "$@"
else
    compdef _uftp uftp
fi
"""

_ZSH_ARGUMENTS: Final = {
    "place": "'*:place:_uftp_places'",
    "remote": "'*:place on a server:_uftp_endpoints'",
    "none": "'*: :'",
}


def _zsh(grammar: Grammar) -> str:
    return _filled(
        _ZSH,
        COMMAND_LINES="\n".join(
            f"        {_quote(f'{name}:{command.help}')}" for command in grammar.commands for name in command.names
        ),
        TOP_OPTIONS="\n".join(f"        {line} \\" for option in grammar.options for line in _zsh_option(option)),
        COMMANDS="\n".join(_zsh_command(command) for command in grammar.commands),
    )


def _zsh_command(command: Subcommand) -> str:
    lines = [f"            {line} \\" for option in command.options for line in _zsh_option(option)]
    head = f"        {'|'.join(command.names)})"
    if command.inner:
        inner = _words(_quote(f"{one.names[0]}:{one.help}") for one in command.inner)
        cases = "\n".join(_zsh_command(one) for one in command.inner)
        return (
            f"{head}\n            _arguments -C \\\n"
            + "\n".join(lines)
            + "\n            '1:command:->inner' '*::argument:->argument' && return 0\n"
            + f"            case $state in\n            inner) commands=( {inner} )\n"
            + "                _describe -t commands command commands ;;\n"
            + f"            argument)\n        case $words[1] in\n{cases}\n        esac ;;\n            esac ;;"
        )
    if command.argument == "choice":
        rest = _quote(f"*:argument:({_words(command.choices)})")
    else:
        rest = _ZSH_ARGUMENTS[command.argument]
    body = "\n".join([*lines, f"            {rest} ;;"])
    return f"{head} _arguments -s \\\n{body}"


def _zsh_option(option: Option) -> list[str]:
    help_line = option.help.translate({ord(mark): f"\\{mark}" for mark in "[]:\\"})
    together = _words(option.names)
    if option.kind == "flag":
        behind = ""
    elif option.kind == "file":
        behind = ":file:_files"
    elif option.kind == "choice":
        behind = f":value:({_words(option.choices)})"
    else:
        behind = ":value: "
    specs = []
    for name in option.names:
        mark = "" if option.kind == "flag" else "=" if name.startswith("--") else "+"
        specs.append(_quote(f"({together}){name}{mark}[{help_line}]{behind}"))
    return specs


# -- fish ---------------------------------------------------------------------------------------------------------

_FISH: Final = r"""# Completion of uftp for fish. Made by `uftp completion fish`; make it again after an upgrade.

function __uftp_endpoints
    set -l file $UFTP_CONFIG
    if test -z "$file"
        set -l base $XDG_CONFIG_HOME
        test -n "$base"; or set base ~/.config
        set file $base/uftp/config.toml
    end
    @FISH_ENDPOINTS@ $file 2>/dev/null
end

complete -c uftp -f
@LINES@
"""


def _fish(grammar: Grammar) -> str:
    lines = []
    names = _words(name for command in grammar.commands for name in command.names)
    before = f"not __fish_seen_subcommand_from {names}"
    lines += [_fish_option(option, before) for option in grammar.options]
    for command in grammar.commands:
        lines += [
            f"complete -c uftp -n {_fish_quote(before)} -a {name} -d {_fish_quote(command.help)}"
            for name in command.names
        ]
        lines += _fish_command(command, f"__fish_seen_subcommand_from {_words(command.names)}")
    sed = _ENDPOINTS.replace("/\\2/p", "/\\2:/p")
    inner = sed.removeprefix("sed -n '").removesuffix("'").replace("\\", "\\\\")
    return _filled(_FISH, FISH_ENDPOINTS=f"sed -n '{inner}'", LINES="\n".join(lines))


def _fish_command(command: Subcommand, seen: str) -> list[str]:
    """The lines of a command that is the one typed if `seen` holds."""
    if command.inner:
        names = _words(name for one in command.inner for name in one.names)
        before = f"{seen}; and not __fish_seen_subcommand_from {names}"
        lines = [_fish_option(option, before) for option in command.options]
        for one in command.inner:
            line = f"complete -c uftp -n {_fish_quote(before)} -a {one.names[0]} -d {_fish_quote(one.help)}"
            lines += [line, *_fish_command(one, f"{seen}; and __fish_seen_subcommand_from {one.names[0]}")]
        return lines
    lines = []
    condition = f"-n {_fish_quote(seen)}"
    if command.argument == "place":
        lines.append(f"complete -c uftp {condition} -F")
    if command.argument in ("place", "remote"):
        lines.append(f"complete -c uftp {condition} -a '(__uftp_endpoints)' -d endpoint")
    if command.argument == "choice":
        lines.append(f"complete -c uftp {condition} -a {_fish_quote(_words(command.choices))}")
    return lines + [_fish_option(option, seen) for option in command.options]


def _fish_option(option: Option, condition: str) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    parts = ["complete -c uftp", f"-n {_fish_quote(condition)}", *names]
    if option.kind == "file":
        parts.append("-r -F")
    elif option.kind == "choice":
        parts.append(f"-x -a {_fish_quote(_words(option.choices))}")
    elif option.kind == "text":
        parts.append("-x")
    return " ".join([*parts, f"-d {_fish_quote(option.help)}"])


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
