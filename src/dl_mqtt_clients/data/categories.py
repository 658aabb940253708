"""Categories as numbers: what stands in a reading for a word such as `tcp`, so that a row stays a row of numbers.

A word becomes a code of 24 bits, the same on every node without asking anyone, and exact in a 32-bit float. Two of
k words share a code with probability about k²/2²⁵ (100 words: 0.03 %); they are then one category. A whole number is
its own code, so that a data set may hold codes, and a stream the words.
"""

import hashlib
from functools import lru_cache
from typing import Final

from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.wire.feature_sums import MAX_CODE

LONGEST: Final = 256  # characters of a word


def category_code(value: str | float) -> float:
    """A word's code, 0 … 2²⁴ - 1; a whole number within ±2²⁴ as it is. MessageError for other numbers."""
    if isinstance(value, str):
        return _code_of(value)
    if value != value // 1 or abs(value) > MAX_CODE:
        raise MessageError(f"category: expected a word, or a whole number within ±2^24. Received: {value!r}")
    return float(value)


@lru_cache(maxsize=65_536)
def _code_of(word: str) -> float:
    return float(int.from_bytes(hashlib.blake2b(word.encode(), digest_size=3).digest()))
