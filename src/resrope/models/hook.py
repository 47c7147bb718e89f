"""One hook for every rotary module of transformers: our tables, in the layout that the module has."""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from resrope.rotary.phases import Phases
from resrope.spec import Frequencies

# How rotary modules multiply position and frequency: transformers 5 by broadcasting, 4 as a matrix product.
_BROADCAST = (Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.mul)
_MATRIX = (Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.matmul)


class ExactProduct(TorchFunctionMode):
    """Within it, the first product of positions and frequencies gives angles reduced before rounding.

    Everything a rotary module does with the product afterwards (repeating it in its own layout, cos,
    sin, the attention factor, the sections of multimodal rotation) is left to the module.
    """

    def __init__(self, phases: Phases) -> None:
        super().__init__()
        self._phases = phases
        self.positions: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float and not args[0].is_floating_point():
            return args[0]  # float32 would lose integers above 2^24
        if self.positions is None and func in _BROADCAST:
            return self._angles(args, -1)
        if self.positions is None and func in _MATRIX:
            return self._angles(args, -2).transpose(-1, -2)
        return func(*args, **(kwargs or {}))

    def _angles(self, operands: tuple[Tensor, ...], ones: int) -> Tensor:
        """[..., seq, rotary_dim/2] float32 angles for whichever operand holds the positions."""
        held = [t for t in operands if not t.is_floating_point()]
        if len(held) != 1:
            raise ValueError("exact mode needs position_ids as integers (tokens); apply with exact=False")
        positions = held[0].squeeze(ones)
        self.positions = positions
        angles = self._phases.angles(positions.reshape(-1).long())
        return angles.view(*positions.shape, self._phases.features)


class TableRotary(nn.Module):
    """What ``install`` puts before a rotary module's own class: tables that no move or cast can change.

    tables: by layer type, or under "" where the module has one for all layers. exact: compute the
    phases from integers (Theorem 1 then holds to the bit), else leave the arithmetic to the module.
    """

    resrope_tables: dict[str, Frequencies]
    resrope_exact: bool
    resrope_phases: dict[tuple[str, torch.device], Phases]

    def forward(self, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The module's own output for these positions, from our phases."""
        if not self.resrope_exact:
            return super().forward(x, position_ids, *args, **kwargs)
        layer = kwargs.get("layer_type") or next(iter(args), None) or ""
        with ExactProduct(self._phases(layer if layer in self.resrope_tables else "", position_ids.device)):
            return super().forward(x, position_ids, *args, **kwargs)

    def _phases(self, layer: str, device: torch.device) -> Phases:
        key = (layer, device)
        if key not in self.resrope_phases:
            self.resrope_phases[key] = Phases(self.resrope_tables[layer], device)
        return self.resrope_phases[key]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves and casts of the model; the frequencies stay float32: bfloat16 would be off by 0.4 %."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for layer in self.resrope_tables:
            self._write(layer)
        return self

    def _write(self, layer: str) -> None:
        table, prefix = self.resrope_tables[layer], f"{layer}_" if layer else ""
        old = getattr(self, f"{prefix}inv_freq")
        inv_freq = torch.tensor(table.inv_freq, dtype=torch.float32, device=old.device)
        for name in (f"{prefix}inv_freq", f"{prefix}original_inv_freq"):
            setattr(self, name, inv_freq.clone())
        setattr(self, f"{prefix}attention_scaling", table.attention_factor)

    def __reduce__(self) -> Any:
        stock = type(self).__mro__[2]
        return _restored, (stock, {**self.__dict__, "resrope_phases": {}})


def install(module: nn.Module, tables: dict[str, Frequencies], *, exact: bool) -> None:
    """Make ``module``, any rotary embedding of transformers, rotate with ``tables`` from now on.

    tables: by layer type where the module has buffers ``{layer type}_inv_freq``, else under "". Types
    that transformers would recompute while it runs (dynamic, longrope) become "default". Installing
    again replaces the tables.
    """
    if not isinstance(module, TableRotary):
        module.__class__ = _with_tables(type(module))
        cast(TableRotary, module).resrope_tables = {}
    rotary = cast(TableRotary, module)
    rotary.resrope_tables = {**rotary.resrope_tables, **tables}
    rotary.resrope_exact = exact
    rotary.resrope_phases = {}
    for layer in tables:
        _stop_updates(module, layer)
        rotary._write(layer)
    # accelerate's hooks hold on to the forward that the module had before them.
    if "_old_forward" in module.__dict__:
        module.__dict__["_old_forward"] = MethodType(TableRotary.forward, module)


def _stop_updates(module: nn.Module, layer: str) -> None:
    """Tell transformers that these frequencies depend on nothing."""
    if layer and isinstance(module.rope_type, dict):
        types: Any = {**module.rope_type, layer: "default"}
        module.rope_type = types
    else:
        module.rope_type = "default"  # type: ignore[assignment]


_CLASSES: dict[type, type] = {}


def _with_tables(stock: type) -> type:
    """The subclass of ``stock`` that has tables, made once."""
    if stock not in _CLASSES:
        _CLASSES[stock] = type(stock.__name__, (TableRotary, stock), {"__module__": stock.__module__})
    return _CLASSES[stock]


def _restored(stock: type, state: dict[str, Any]) -> Any:
    module: Any = object.__new__(_with_tables(stock))
    module.__dict__.update(state)
    return module
