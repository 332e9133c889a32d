"""What holds for every file that is read, whatever is in it: it may lie, and a few bytes may claim to be many."""

import os
import stat
from pathlib import Path

# A file unpacks to at most 100 times its size, or to 256 MiB if that is more: what the largest image takes that Pillow
# opens without a warning. Weights and photographs unpack to 1 to 20 times their size, a bomb to 1,000 and more.
UNPACKED_FREELY = 2**28
UNPACKED_TIMES = 100
LARGEST_MESSAGE = 200  # characters of a library's own words that are passed on


def why_unreadable(path: Path) -> str | None:
    """What keeps this path from being read as a file, to follow its name in a sentence; None if nothing does.

    Only regular files are opened: a FIFO or a device may have no end, or never begin.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        return f"cannot be read: it must be a file that you may read ({one_line(error)})"
    if not stat.S_ISREG(mode):
        return "cannot be read: it must be a file that you may read, and is a folder, a pipe or a device"
    if not os.access(path, os.R_OK):
        return "cannot be read: it must be a file that you may read"
    return None


def is_bomb(unpacked: int, stored: int) -> bool:
    """Whether a file of `stored` bytes claims to unpack to more bytes than an honest one does."""
    return unpacked > max(UNPACKED_FREELY, UNPACKED_TIMES * stored)


def one_line(error: BaseException) -> str:
    """What an error says, on one line: messages of decoders quote damaged files, control characters included."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    printable = "".join(letter if letter.isprintable() else " " for letter in str(error)[: 4 * LARGEST_MESSAGE])
    words = " ".join(printable.split())
    return words[:LARGEST_MESSAGE] or type(error).__name__
