"""The position embeddings of the benchmark by name: RoPE's scalings, what people compare them with, a user's
own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resrope.posgen.embeddings.added import Learned, NoPE, Sinusoidal
from resrope.posgen.embeddings.bias import ALiBi, Fire, T5Bias
from resrope.posgen.embeddings.rotary import PoSE, PRope, RandomisedRope, Rope, XPos
from resrope.posgen.embeddings.wavelengths import CHOICES, LISTED, chosen, listed
from resrope.posgen.positions import PositionEmbedding, Sizes, Where
from resrope.posgen.settings import METHODS, Settings
from resrope.spec import Frequencies
from resrope.spec.methods import RESONANCE

GROUP = "resrope.posgen_embeddings"
EMBEDDINGS: dict[str, Callable[[Sizes], PositionEmbedding]] = {
    "none": NoPE,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "alibi": ALiBi,
    "t5": T5Bias,
    "randomised-rope": RandomisedRope,
    "pose": PoSE,
    "xpos": XPos,
    "fire": Fire,
    "p-rope": PRope,
}
"""Beside ``METHODS``."""


def embedding(name: str, settings: Settings, seed: int) -> PositionEmbedding:
    """The embedding called ``name``: of ``METHODS``, with other integers for wavelengths
    (``distinct-yarn``), of ``EMBEDDINGS``, of an entry point in the group ``resrope.posgen_embeddings``, or
    ``module:Class``. Its parameters are drawn from ``seed``.

    Raises ValueError for a name that is none of them, and for what is no position embedding.
    """
    if name in METHODS:
        return Rope.of(settings, name)
    choice, plain = _choice(name)
    if choice:
        if plain.startswith(RESONANCE):
            plain = plain.removeprefix(RESONANCE)
            raise ValueError(
                f"{name}: {choice} and Resonance both choose the integers; there are {choice}-{plain} and "
                f"{RESONANCE}{plain}"
            )
        return Rope.of(settings, plain, partial(_moved, choice=choice, settings=settings))
    make = EMBEDDINGS.get(name) or _found(name)
    if not callable(make):
        raise ValueError(f"{name} must name a class, got {make!r}")
    with torch.random.fork_rng(devices=[]), _running(name, "made of Sizes alone"):
        # Of its own: the decoder's weights are drawn from the seed itself.
        torch.manual_seed(int.from_bytes(sha256(f"position {seed}".encode()).digest()[:8], "big"))
        made = make(settings.sizes)
    if not isinstance(made, PositionEmbedding):
        raise ValueError(
            f"{name} must make a resrope.posgen.positions.PositionEmbedding, got {type(made).__name__}"
        )
    if "sizes" not in vars(made):
        raise ValueError(f"{name}: its __init__ must call super().__init__(sizes)")
    return made


def built_in(name: str) -> bool:
    """Whether ``name`` is none of a user's own."""
    choice, plain = _choice(name)
    return name in METHODS or name in EMBEDDINGS or bool(choice and not plain.startswith(RESONANCE))


def _choice(name: str) -> tuple[str, str]:
    """Which other integers, of what: ``distinct``, ``yarn``; of other names nothing."""
    choice, _, plain = name.partition("-")
    return (choice, plain) if choice in (*CHOICES, LISTED) and plain in METHODS else ("", name)


def when_trained(name: str, settings: Settings) -> Frequencies | str:
    """All that training sees of an embedding: of RoPE and its scalings the table, of others the name.

    Where scaling comes in at test time alone, those of RoPE and YaRN are the same.
    """
    made = embedding(name, settings, 0)
    return made.tables[True] if type(made) is Rope else name


def check_embedding(name: str, settings: Settings) -> None:
    """Raise ValueError for what ``embedding`` refuses, for what fails, for shapes and numbers that cannot be,
    at both lengths, for what is not the same twice, and for parameters that cannot be trained."""
    made, again, sizes = embedding(name, settings, 0), embedding(name, settings, 0), settings.sizes
    for training, length in ((True, sizes.train_length), (False, sizes.test_length)):
        with torch.no_grad(), _running(name, f"of {length - 1} tokens"):
            made.train(training)
            again.train(training)
            positions = made.positions(length - 1, np.random.default_rng(0))
            first, *others = made.at(positions), made.at(positions), again.at(positions)
            if len(first) != length - 1:
                raise ValueError(f"positions must be [{length - 1}], got [{len(first)}]")
        if not all(_same(first, other) for other in others):
            raise ValueError(
                f"{name} must give the same for the same positions; what is random is drawn in its method "
                "positions"
            )
    _check_gradients(name, made.train(), sizes.train_length - 1)


def _check_gradients(name: str, made: PositionEmbedding, length: int) -> None:
    """Raise ValueError for a trained parameter that a step has no gradient of, or none that is a number."""
    trained = {own: p for own, p in made.named_parameters() if p.requires_grad}
    if not trained:
        return
    with torch.enable_grad(), _running(name, f"of {length} tokens"):
        where = made.at(made.positions(length, np.random.default_rng(0)))
        parts = [torch.view_as_real(where.turns), where.input, where.bias]
        total = torch.stack([part.sum() for part in parts if part is not None]).sum()
        grads = (
            torch.autograd.grad(total, list(trained.values()), allow_unused=True)
            if total.requires_grad
            else ()
        )
        for own, grad in zip(trained, grads or [None] * len(trained), strict=True):
            if grad is None:
                raise ValueError(f"parameter {own} has no gradient: every parameter must be used")
            if not torch.isfinite(grad).all():
                raise ValueError(f"the gradient of parameter {own} holds numbers that are not finite")


@contextmanager
def _running(name: str, when: str) -> Iterator[None]:
    """Code of a user's own: whatever it raises is a ValueError in one line, with its name."""
    try:
        yield
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split()).removeprefix(f"{name.rpartition(':')[2]}: ")
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{name}, {when}: {kind}{said}") from error


def _same(one: Where, other: Where) -> bool:
    pairs = ((getattr(one, part), getattr(other, part)) for part in ("turns", "input", "bias"))
    return all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _moved(table: Frequencies, *, choice: str, settings: Settings) -> Frequencies:
    return listed(table, settings.wavelengths) if choice == LISTED else chosen(table, choice)


def _found(name: str) -> Any:
    """Of an entry point, or imported."""
    for point in entry_points(group=GROUP, name=name):
        with _running(name, f"loaded as {point.value}"):
            return point.load()
    module, colon, attribute = name.partition(":")
    if not colon:
        own = [point.name for point in entry_points(group=GROUP)]
        moved = [f"{choice}-…" for choice in (*CHOICES, LISTED)]
        known = ", ".join([*METHODS, *moved, *EMBEDDINGS, *own])
        raise ValueError(f"method must be one of {known}, or module:Class, got {name!r}")
    here = str(Path.cwd())  # where a user's module lies that is not installed
    if here not in sys.path:
        sys.path.append(here)
    with _running(name, "which must name a class that can be imported"):
        return getattr(import_module(module), attribute)
