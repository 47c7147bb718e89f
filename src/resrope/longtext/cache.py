"""Keys and values in memory that is taken once: nothing is copied as a text grows, and no holes are left."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class ReservedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A growing cache layer with room for ``length`` tokens; beyond that it grows as transformers' own does.

    Takes over the keys and values [batch, heads, tokens, head_dim] that ``layer`` already holds.
    """

    def __init__(self, layer: DynamicLayer, length: int) -> None:
        self.__dict__.update(layer.__dict__)
        assert layer.keys is not None
        assert layer.values is not None
        held = layer.keys.shape[-2]
        self._room = [_room(t, max(length, held)) for t in (layer.keys, layer.values)]
        self.keys, self.values = (room[..., :held, :] for room in self._room)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append and return all keys and values, as views."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            grown: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return grown
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values


def reserve(cache: Any, length: int) -> None:
    """Give every plain layer of ``cache``, which has read its first chunk, room for ``length`` tokens.

    Layers of other kinds (sliding windows, states) are left as the model made them.
    """
    for i, layer in enumerate(getattr(cache, "layers", [])):
        if type(layer) is DynamicLayer:
            cache.layers[i] = ReservedLayer(layer, length)


def _room(held: Tensor, length: int) -> Tensor:
    room = held.new_empty((*held.shape[:-2], length, held.shape[-1]))
    room[..., : held.shape[-2], :] = held
    return room
