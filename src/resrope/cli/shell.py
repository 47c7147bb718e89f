"""The `resrope` command, and how its failures look: one line, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from resrope import __version__
from resrope.cli.compare import compare
from resrope.cli.doctor import doctor
from resrope.cli.evaluate import evaluate
from resrope.cli.extend import extend
from resrope.cli.finetune import finetune
from resrope.cli.inspect import inspect
from resrope.cli.leval import leval
from resrope.cli.passkey import passkey
from resrope.cli.perplexity import perplexity
from resrope.cli.posgen import posgen
from resrope.cli.verify import verify

# Newer typer returns this for a KeyboardInterrupt, older typer raises Abort.
_INTERRUPTED = 130

app = typer.Typer(
    name="resrope",
    help="Resonance RoPE and PosGen: position embeddings beyond their training length.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.command()(inspect)
app.command()(doctor)
app.command()(extend)
app.command()(verify)
app.command()(finetune)
app.command()(perplexity)
app.command()(passkey)
app.command()(compare)
app.command()(evaluate)
app.add_typer(leval)
app.add_typer(posgen)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"resrope {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit (``run``)."""
    run(app, arguments)


def script(command: Callable[..., None]) -> None:
    """Run a file's one function as a command of its own, whose help is what the file says at its head."""
    own = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    own.command(help=command.__globals__["__doc__"])(command)
    run(own)


def run(commands: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0 done, 2 a mistake of the user or the machine, 130 interrupted.

    ValueError is a user's mistake, OSError the machine's (a full disk, no permission), ImportError a
    missing extra; anything else is a defect of ours and keeps its traceback.
    """
    try:
        status = commands(args=arguments, standalone_mode=False)
    except (ValueError, OSError, ImportError) as error:
        _fail(_one_line(error))
    except MemoryError as error:
        _fail(f"not enough memory for what was asked: {error}")
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _fail(f"not enough memory for what was asked: {str(error).splitlines()[0]}")
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Exception as error:
        # typer's own usage errors: their class moved between versions, their method did not.
        if not hasattr(error, "format_message"):
            raise
        _fail(str(error.format_message()))
    if status == _INTERRUPTED:
        typer.echo("interrupted; run the same command again to go on", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch has a class of its own for accelerators, and a plain RuntimeError for the CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}"
    return str(error)


def _fail(message: str) -> None:
    if message:  # empty where typer has already printed the help
        typer.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(2)
