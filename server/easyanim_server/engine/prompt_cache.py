"""Prompts' embeddings, remembered by their text: the negative prompt, which seldom changes, is embedded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from easyanim_server.engine.families.runtime import Condition
from easyanim_server.engine.finite import require_finite


class PromptCache:
    """Embeds prompts that are new to it.

    Args:
        encode: Embeds a prompt.
        capacity: Prompts that are remembered, the most recently used ones; of EasyAnimate V5.1 each takes 1.8 MB in
            bfloat16.
    """

    def __init__(self, encode: Callable[[str], Condition], capacity: int = 64) -> None:
        self._encode = encode
        self._capacity = capacity
        self._remembered: OrderedDict[str, Condition] = OrderedDict()
        self.hits = self.misses = 0
        """How often a prompt was remembered, and was not."""

    def __call__(self, prompt: str) -> Condition:
        """Embed one prompt.

        Args:
            prompt: May be empty, as a negative prompt can be.

        Returns:
            Shared between callers, so not to be written to.

        Raises:
            NonFinite: the text encoder gives no numbers for it.
        """
        if prompt in self._remembered:
            self.hits += 1
        else:
            self.misses += 1
            condition = self._encode(prompt)
            for embedding in condition.values():
                if embedding.is_floating_point():
                    require_finite(embedding, "the prompt's embedding")  # before it is remembered
            self._remembered[prompt] = condition
            if len(self._remembered) > self._capacity:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(prompt)
        return self._remembered[prompt]
