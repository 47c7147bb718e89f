"""A model as lm-evaluation-harness calls it: no silent cuts, and the table that each call asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from resrope.longtext.chat import Turn, rendered
from resrope.longtext.extras import extra

_WHAT = "an evaluation"
_HFLM: Any = extra("lm_eval.models.huggingface", _WHAT, among="eval").HFLM
_normalized: Any = extra("lm_eval.models.utils", _WHAT, among="eval").normalize_gen_kwargs


class HarnessModel(_HFLM):  # type: ignore[misc]
    """The harness's transformers back end. rotated: what surrounds a call whose longest sequence, its answer
    included, has that many tokens."""

    rotated: Callable[[int], AbstractContextManager[Any]] = nullcontext

    def generate_until(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        """The answers; raises ValueError where they leave no room for a prompt."""
        for request in requests:
            answer = _normalized(request.args[1], self.max_gen_toks)["max_gen_toks"]
            if answer >= self.max_length:
                raise ValueError(
                    f"an answer may have {answer} tokens (max_gen_toks), of a length of {self.max_length} "
                    "none are left for the prompt"
                )
        made: list[str] = super().generate_until(requests, *args, **kwargs)
        return made

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Token ids and mask [len(strings), longest]; raises ValueError instead of dropping beginnings."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len is not None:
            self._check_fits(ids.shape[1], left_truncate_len)
        return ids, mask

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        for _, context, continuation in requests:
            self._check_fits(len(context) + len(continuation), self.max_length + 1)
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _check_fits(self, tokens: int, room: int) -> None:
        if tokens > room:
            raise ValueError(
                f"a prompt has {tokens} tokens, of a length of {self.max_length} only {room} are left for it"
            )

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Any:
        with self.rotated(inps.shape[1]):
            return super()._model_call(inps, *args, **kwargs)

    def _model_generate(self, context: Tensor, max_length: int, *args: Any, **kwargs: Any) -> Any:
        with self.rotated(max_length):
            return super()._model_generate(context, max_length, *args, **kwargs)

    def apply_chat_template(self, chat_history: list[Turn], add_generation_prompt: bool = True) -> str:
        """The turns as one text; raises ValueError where the template cannot be used."""
        return rendered(self.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)
