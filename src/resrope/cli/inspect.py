"""`resrope inspect`: what a method does to every feature of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resrope.cli.values import assignments
from resrope.spec import RopeSpec, method

if TYPE_CHECKING:
    from rich.table import Table

    from resrope.analysis import FeatureTable


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """One table to print: a layer type's name ("" where there is one), its spec and two lengths."""

    name: str
    spec: RopeSpec
    train_length: int
    test_length: int


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A config.json, a folder with one, a .gguf file, or `smollm2`.", show_default=False
        ),
    ] = None,
    head_dim: Annotated[int | None, typer.Option(help="Dimensions of one attention head.")] = None,
    rope_theta: Annotated[float | None, typer.Option(help="The rotary base.  [default: 10000]")] = None,
    method_name: Annotated[
        str | None, typer.Option("--method", help="Scaling to apply, replacing the model's own.")
    ] = None,
    factor: Annotated[float | None, typer.Option(help="Target / original length.")] = None,
    original_length: Annotated[
        int | None, typer.Option(help="original_max_position_embeddings of the method.")
    ] = None,
    train_length: Annotated[int | None, typer.Option(help="Tokens seen in training.")] = None,
    test_length: Annotated[int | None, typer.Option(help="Tokens at test time.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", help="Another parameter of the method: beta_fast=2.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw Figure 1 and the gaps (.png, .svg, .pdf).")] = None,
    feature: Annotated[
        int | None, typer.Option(help="The feature that --plot draws.  [default: 6]", show_default=False)
    ] = None,
) -> None:
    """Wavelengths, integer wavelengths, critical dimension and feature gap of a model or a method.

    Example: `resrope inspect --head-dim 128 --method yarn --factor 8 --original-length 4096`

    Example: `resrope inspect smollm2 --method yarn --factor 4 --plot gap.png`
    """
    from resrope.analysis import feature_table

    flags = (head_dim, rope_theta)
    if feature is not None and plot is None:
        raise ValueError(f"--feature goes with --plot, got {feature} alone")
    lengths = _Lengths(original_length if train_length is None else train_length, test_length)
    subjects = _from_model(model, *flags) if model is not None else _from_flags(*flags, lengths.train or 0)
    given = assignments(parameters or [])
    if factor is not None:
        given = {**given, "factor": _once("factor", factor, given)}
    made = [lengths.settle(_with_method(s, method_name, given, original_length)) for s in subjects]
    tables = [(s, feature_table(s.spec, s.train_length, s.test_length)) for s in made]
    if plot is not None:
        _plot(made[0].spec, tables[0][1], 6 if feature is None else feature, plot)
    if json_output:
        _print_json(tables)
    else:
        _print_tables(tables, plot)


@dataclass(frozen=True, slots=True)
class _Lengths:
    """The lengths asked for; what was not asked for follows from the model and its method."""

    train: int | None
    test: int | None

    def settle(self, subject: _Subject) -> _Subject:
        original = getattr(subject.spec.scaling, "original_max_position_embeddings", None)
        # A model's own max_position_embeddings is the length its own scaling reaches, not that of training.
        reached = subject.test_length
        factor = min(getattr(subject.spec.scaling, "factor", 1.0), 2.0**40)
        known = original or (round(reached / factor) if reached else subject.train_length)
        train = known if self.train is None else self.train
        if self.train is None and not known:
            raise ValueError("--train-length must be given: neither a model nor --original-length tells it")
        stretched = max(train + 1, math.ceil(train * factor)) if factor > 1 else 2 * train
        test = self.test if self.test is not None else (reached if reached > train else stretched)
        return replace(subject, train_length=train, test_length=test)


def _from_flags(head_dim: int | None, rope_theta: float | None, train_length: int) -> list[_Subject]:
    if head_dim is None:
        raise ValueError("inspect needs a model or --head-dim, got neither")
    spec = RopeSpec(head_dim=head_dim, rope_theta=10000.0 if rope_theta is None else rope_theta)
    return [_Subject(name="", spec=spec, train_length=train_length, test_length=0)]


def _from_model(model: str, head_dim: int | None, rope_theta: float | None) -> list[_Subject]:
    if head_dim is not None or rope_theta is not None:
        raise ValueError("--head-dim and --rope-theta describe a method without a model, got a model too")
    from resrope.models import read_config

    read = read_config(model)
    longest = read.max_position_embeddings or 0
    length = read.original_max_position_embeddings or longest
    return [
        _Subject(
            name=name if len(read.specs) > 1 else "",
            spec=spec,
            train_length=length,
            test_length=0 if spec.scaling is None else longest,
        )
        for name, spec in read.specs.items()
    ]


def _with_method(
    subject: _Subject, name: str | None, given: dict[str, Any], original_length: int | None
) -> _Subject:
    """The subject with the asked-for method in place of its own."""
    if name is None:
        if given:
            raise ValueError(f"{', '.join(given)} must come with --method, got none")
        return subject
    known = method(name, **_filled(name, subject, given, original_length))
    spec = replace(subject.spec, scaling=known.scaling, resonance=known.resonance)
    return replace(subject, spec=spec, test_length=0)


def _filled(
    name: str, subject: _Subject, given: dict[str, Any], original_length: int | None
) -> dict[str, Any]:
    """The method's parameters; where it takes an original length, the flag's or the model's own.

    A method that takes none has --original-length as its training length alone.
    """
    from resrope.spec.scaling import SCALINGS

    original = "original_max_position_embeddings"
    cls = SCALINGS.get(name.removeprefix("resonance-"))
    if cls is None or original not in {f.name for f in fields(cls)}:
        return given
    if original_length is not None:
        return {**given, original: _once(original, original_length, given)}
    if original not in given and not subject.train_length:
        raise ValueError(f"--original-length must be given with {name}: no model tells it")
    return {original: subject.train_length, **given}


def _once(name: str, value: Any, given: dict[str, Any]) -> Any:
    if name in given:
        raise ValueError(f"{name} is given twice: {value} and --set {name}={given[name]}")
    return value


def _plot(spec: RopeSpec, table: FeatureTable, feature: int, path: Path) -> None:
    from resrope.analysis.plots import draw

    draw(spec, table, feature, path)


def _print_json(tables: list[tuple[_Subject, FeatureTable]]) -> None:
    from resrope.cli.output import print_json

    data = [{"layer_type": s.name or None, "spec": s.spec.to_dict(), **t.to_dict()} for s, t in tables]
    print_json(data[0] if len(data) == 1 else data)


def _print_tables(tables: list[tuple[_Subject, FeatureTable]], plot: Path | None) -> None:
    from resrope.cli.output import console

    out = console()
    for subject, table in tables:
        out.print(_rich_table(subject, table))
        out.print(_summary(table), highlight=False)
    if plot is not None:
        out.print(f"picture: {plot}", highlight=False)


def _rich_table(subject: _Subject, table: FeatureTable) -> Table:
    from rich import box
    from rich.table import Table

    spec = subject.spec
    title = f"{table.method}, head_dim {spec.head_dim}, rope_theta {spec.rope_theta:g}"
    title += f", {table.train_length} → {table.test_length} tokens" + (
        f", {subject.name}" * bool(subject.name)
    )
    out = Table(title=title, box=box.SIMPLE_HEAD)
    for name in ("feature", "wavelength", "scaled", "resonant", "shift %", "", "gap before", "gap after"):
        out.add_column(name, justify="right")
    for f in table.features:
        out.add_row(
            str(f.index),
            f"{f.wavelength:.2f}",
            f"{f.scaled:.2f}",
            str(f.resonant),
            f"{f.shift_percent:+.3f}",
            "pre" if f.pre_critical else "post",
            f"{f.gap_before:.4f}",
            f"{f.gap_after:.4f}",
            style=None if f.pre_critical else "dim",
        )
    return out


def _summary(table: FeatureTable) -> str:
    t, length = table.totals(), table.train_length
    return "\n".join(
        (
            f"pre-critical: {t['pre_critical']} of {t['features']} features, wavelength < {length}",
            f"largest gap:  {t['max_gap_before']:.4f} before, {t['max_gap_after']:.4f} after Resonance "
            f"(pre-critical: {t['pre_critical_max_gap_before']:.4f}, {t['pre_critical_max_gap_after']:.4f})",
            f"mean gap:     {t['mean_gap_before']:.4f} before, {t['mean_gap_after']:.4f} after",
            f"the resonant pre-critical features repeat together after {_big(t['common_period'])} tokens",
            f"highest recurrence beyond {length}: {_recurrence(t['recurrence_before'])} before, "
            f"{_recurrence(t['recurrence_after'])} after",
            f"attention factor: {t['attention_factor']:.6g}",
        )
    )


def _recurrence(peak: dict[str, Any] | None) -> str:
    return "none" if peak is None else f"{peak['distance']} tokens (mean cosine {peak['cosine']:.2f})"


def _big(number: int) -> str:
    digits = str(number)
    return digits if len(digits) <= 9 else f"{digits[0]}.{digits[1:5]}e{len(digits) - 1}"
