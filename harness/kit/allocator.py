"""The C library's memory, kept while times are taken: giving it back and getting it again would be timed too."""

from __future__ import annotations

import ctypes

# mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Have freed memory stay with the process, for the next tensors; whether the C library takes that setting.

    glibc gives large blocks back to the kernel, or not, depending on what was allocated before. Then every forward pass
    has its memory mapped and zeroed anew, page by page: 10,000 to 40,000 page faults a pass were seen in `albef-tiny`,
    40 ms of 150, and not in the method and dense alike. Other C libraries (macOS, musl) have no such switch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library by the name of None
        return False
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_MMAP_MAX, 0))
