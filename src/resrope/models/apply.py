"""Put a method on a loaded transformers model, and prove that it took effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from resrope.models.config import ModelRope, rope_from_config
from resrope.models.engines import ENGINES, Reading
from resrope.models.engines.compare import distance, objection
from resrope.models.extension import Extension, extension
from resrope.models.generation import follow_generation, stop_following
from resrope.models.hook import install
from resrope.models.live import check_effect, rotary_modules, text_config
from resrope.models.portable import spelled, spellings
from resrope.spec import DynamicNTK, Frequencies


def apply(
    model: nn.Module,
    name: str,
    *,
    exact: bool = True,
    length: int | None = None,
    layers: tuple[str, ...] | None = None,
    replace_scaling: bool = False,
    **parameters: Any,
) -> Extension:
    """Make a loaded transformers model rotate with the method ``name``; returns what changed.

    >>> resrope.apply(model, "resonance-yarn", factor=4)

    The effect is read back from the live modules (frequencies, their dtype, attention factor, cos and
    sin), for every layer type. The model's config is changed with it, in place. ``resrope.save`` writes a
    checkpoint that the installed transformers reads, or says why it cannot.

    exact: compute phases from integers, so that they are right at any position and Theorem 1 holds to
    the bit; False leaves the arithmetic to transformers, as in a stock loader. length: tokens the
    tables serve (default: factor · original length). layers: layer types to change (default: all
    without a sliding window). replace_scaling: put the method in the place of a scaling that the model
    already has. parameters: the method's own, e.g. factor. Dynamic NTK without a length follows each
    ``generate``: its base is fixed by the length that call may reach.

    Raises ValueError for what the method or the model cannot do, and then leaves the model as it was;
    RuntimeError when the model does not compute what was asked for.
    """
    rope = rope_of(model)
    done = extension(rope, name, length=length, layers=layers, replace_scaling=replace_scaling, **parameters)
    settled = done if done.fixed_length else at_length(done, done.length)
    put(model, settled, exact=exact)
    stop_following(model)
    if not done.fixed_length:
        follow_generation(model, Dynamic(done=done, exact=exact))
    return settled


@dataclass(frozen=True, kw_only=True, slots=True)
class Dynamic:
    """Dynamic NTK that no length fixes: what ``generate`` puts in for the length that one call may reach."""

    done: Extension
    exact: bool

    def __call__(self, model: nn.Module, length: int | None) -> None:
        """Install the table for ``length`` tokens, None: for the promised length; the config stays."""
        made = at_length(self.done, self.done.length if length is None else length)
        install_tables(model, self.done, made.tables(), self.exact)


def put(model: nn.Module, done: Extension, *, exact: bool) -> None:
    """Install the tables of a settled extension, check the live modules, then tell the config.

    The config object is changed in place. Raises RuntimeError when a module does not compute its table;
    every module is then as it was.
    """
    text = text_config(model)
    config = _spelled(text.to_dict(), done)
    tables = done.tables() if exact else as_stock(done.tables(), config)
    install_tables(model, done, tables, exact)
    _update_config(text, config)


def _spelled(text: dict[str, Any], done: Extension) -> dict[str, Any]:
    """The first spelling that the installed transformers reads rightly, the first of all where none is."""
    made = [spelled(text, done, spelling) for spelling in spellings(done, text)]
    right = (c for c in made if objection(installed_reading(c), done.tables(), done.length) is None)
    return next(right, made[0])


def install_tables(model: nn.Module, done: Extension, tables: dict[str, Frequencies], exact: bool) -> None:
    """Put ``tables`` into the rotary modules and check what they compute; the config stays as it is.

    Raises RuntimeError when a module does not compute its table; every module is then as it was.
    """
    modules = rotary_modules(model, done.before)
    restore = _remembered([one.module for one in modules])
    try:
        for one in modules:
            install(one.module, {key: tables[layer] for key, layer in one.keys.items()}, exact=exact)
            for key, layer in one.keys.items():
                check_effect(one, key, tables[layer], exact=exact)
    except RuntimeError:
        restore()
        raise


@contextmanager
def rotating(model: nn.Module, done: Extension, tables: dict[str, Frequencies]) -> Iterator[nn.Module]:
    """``model`` with ``tables`` and exact phases; afterwards its rotary modules are bit for bit as before.

    The config stays as it is. Raises what ``install_tables`` raises.
    """
    restore = _remembered([one.module for one in rotary_modules(model, done.before)])
    try:
        install_tables(model, done, tables, True)
        yield model
    finally:
        restore()


def _remembered(modules: list[nn.Module]) -> Callable[[], None]:
    """A function that makes the modules what they are now: class, attributes, buffers."""
    before = [(m, m.__class__, m.__dict__.copy(), m._buffers.copy()) for m in modules]

    def restore() -> None:
        for module, cls, state, buffers in before:
            module.__class__ = cls
            module.__dict__ = {**state, "_buffers": buffers.copy()}

    return restore


def as_stock(tables: dict[str, Frequencies], config: dict[str, Any]) -> dict[str, Frequencies]:
    """``tables`` in the float32 that the installed transformers computes from ``config``.

    It differs by a unit in the last place here and there; a table that this transformers cannot get from a
    config stays as it is.
    """
    found = installed_reading(config).tables
    near = {k: k in found and distance({k: found[k]}, {k: table}).agrees for k, table in tables.items()}
    return {k: found[k] if near[k] else table for k, table in tables.items()}


def installed_reading(config: dict[str, Any]) -> Reading:
    """What the installed transformers makes of ``config``."""
    from transformers import __version__

    return ENGINES[f"transformers-{__version__.split('.')[0]}"](config)


def _update_config(text: Any, config: dict[str, Any]) -> None:
    """Set on the live config what ``spelled`` changed, in the names that its transformers version has."""
    before = text.to_dict()
    # In transformers 5 rope_scaling is a deprecated alias of rope_parameters.
    alias = isinstance(getattr(type(text), "rope_scaling", None), property)
    for key, value in config.items():
        if before.get(key) != value and not (alias and key == "rope_scaling"):
            setattr(text, key, value)


def rope_of(model: nn.Module) -> ModelRope:
    """The rotary position embeddings of a loaded transformers model, from its config."""
    return rope_from_config(text_config(model).to_dict())


def at_length(done: Extension, length: int) -> Extension:
    """``done`` with dynamic NTK's base fixed for sequences of ``length`` tokens."""
    specs = {
        layer: spec.at_length(length) if isinstance(spec.scaling, DynamicNTK) else spec
        for layer, spec in done.after.specs.items()
    }
    return replace(
        done, after=replace(done.after, specs=specs, max_position_embeddings=length), length=length
    )
