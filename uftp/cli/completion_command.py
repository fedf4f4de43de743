"""`uftp completion`."""

from __future__ import annotations

import click

from uftp.cli.completion import SHELLS


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a completion script for SHELL: bash, zsh or fish.

    The script completes commands, options, their choices, file names and the names of endpoints, and starts no program
    to do so. Make it again after an upgrade.

    \b
    Examples:
      uftp completion bash > ~/.local/share/bash-completion/completions/uftp
      uftp completion zsh > ~/.zfunc/_uftp         # with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
      uftp completion fish > ~/.config/fish/completions/uftp.fish
      eval "$(uftp completion bash)"               # for this shell alone; `source` it in zsh and fish
    """
    from uftp.cli.completion import read_grammar, script
    from uftp.cli.main import ALIASES, COMMANDS, command_line

    lines = {name: line for name, (_, line) in COMMANDS.items()}
    click.echo(script(read_grammar(command_line, ALIASES, lines), shell), nl=False)
