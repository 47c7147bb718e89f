"""Training cells from the command line: on what, in how many processes, under a bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from resrope.posgen.record import Cell
    from resrope.posgen.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """How cells are run. matrix: ``run_matrix`` or ``run_on_cluster`` with all that is not of the cells.
    settled: end what is settled. quiet: without a bar."""

    matrix: Callable[..., object]
    settled: bool
    quiet: bool


def how_of(
    jobs: int | None,
    cluster: str | None,
    together: int | None,
    device: str | None,
    *,
    settled: bool,
    quiet: bool,
) -> How:
    """From the options. Raises ValueError for those that do not go together and for a cluster where nobody
    listens, ImportError without Ray."""
    from resrope.devices import device_of
    from resrope.posgen.cluster import check_cluster, run_on_cluster
    from resrope.posgen.runner import at_least_one, default_jobs, run_matrix

    here = {"--jobs": jobs, "--together": together, "--device": device}
    given = next((name for name, value in here.items() if value is not None), None)
    if cluster is not None:
        if given is not None:
            raise ValueError(
                f"{given} is for this machine; with --cluster the cluster decides: give one of them"
            )
        check_cluster(cluster)
        return How(matrix=partial(run_on_cluster, address=cluster), settled=settled, quiet=quiet)
    place = device_of(device or "cpu")
    # A GPU is shared by processes only to wait for each other.
    usual = default_jobs() if place.type == "cpu" else 1
    matrix = partial(
        run_matrix,
        jobs=usual if jobs is None else at_least_one("jobs", jobs),
        together=1 if together is None else at_least_one("together", together),
        device=str(place),
    )
    return How(matrix=matrix, settled=settled, quiet=quiet)


def train(out: Path, cells: Sequence[Cell], settings: Settings, how: How) -> None:
    """Run those of ``cells`` that ``out`` does not hold yet, under a bar."""
    from resrope.posgen.record import read_record
    from resrope.posgen.settled import rounds
    from resrope.posgen.train import total_steps
    from resrope.posgen.work import check_unchanged

    pending = sum(read_record(out, cell) is None for cell in cells)
    if not pending:
        return
    check_unchanged(out, cells, settings)
    total = pending * total_steps(settings)
    with _progress(how.quiet) as bar:
        work = bar.add_task(f"{pending} cell{'s' * (pending > 1)}", total=total)

        def finished(cell: Cell, record: dict[str, Any]) -> None:
            if not how.quiet:
                bar.console.print(_one_cell(cell, record), highlight=False)

        for part in rounds(out, cells, settings) if how.settled else [cells]:
            how.matrix(
                out,
                part,
                settings,
                progress=lambda cell, steps: bar.advance(work, steps),
                finished=finished,
            )
        bar.update(work, completed=total)


def _progress(quiet: bool) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from resrope.cli.output import console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    return Progress(*columns, console=console(), disable=quiet)


def _one_cell(cell: Cell, record: dict[str, Any]) -> str:
    last = record["last"]
    return (
        f"{cell.name:<36} {100 * last['in_distribution']:5.1f} % in distribution, "
        f"{100 * last['ood']:5.1f} % OOD, {record['made']['seconds']:.0f} s"
    )
