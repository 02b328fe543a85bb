"""How files are spoiled: their bytes, or the values of their JSON."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.faults.attack import doing


def chance(*what: object) -> random.Random:
    """Return random numbers that depend on nothing but `what`."""
    return random.Random(" ".join(map(str, what)))


def spoiled_bytes(data: bytes, of: random.Random) -> bytes:
    """Return `data` with something wrong."""
    at, length = of.randrange(max(1, len(data))), of.choice([1, 4, 64, 1024, max(1, len(data) // 2)])
    kinds = ["flip", "flips", "zeros", "random", "cut", "empty", "twice", "inserted", "removed", "swapped", "other"]
    kind = of.choice(kinds)
    doing(f"{kind} at byte {at} of {len(data)}, {length} long")
    before, part, after = data[:at], data[at : at + length], data[at + length :]
    match kind:
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << of.randrange(8)]) + data[at + 1 :] if data else b"\0"
        case "flips":
            changed = bytearray(data)
            for _ in range(min(length, len(data))):
                changed[of.randrange(len(data))] ^= 1 << of.randrange(8)
            return bytes(changed)
        case "zeros":
            return before + bytes(len(part)) + after
        case "random":
            return before + of.randbytes(len(part)) + after
        case "cut":
            return before
        case "empty":
            return b""
        case "twice":
            return data + data
        case "inserted":
            return before + of.randbytes(length) + part + after
        case "removed":
            return before + after
        case "swapped":
            return after + part + before
    return of.choice(
        [b"{}", b"[]", b"null", b"\xff\xfe", b"\x93NUMPY", b"PK\x03\x04", b"version https://git-lfs", b"\0" * 999]
    )


NASTY: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    16,
    10**9,
    2**63,
    2**70,
    -(2**70),
    0.5,
    -0.0,
    1e308,
    float("inf"),
]
NASTY += [
    float("nan"),
    "",
    "x",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "<script>alert(1)</script>",
    "\x1b[2J",
    "[/b]",
    "\n",
]
NASTY += [
    "\ud800",
    "x" * 100_000,
    "sluice 2",
    "train",
    "fg_bg",
    "png",
    "0" * 64,
    [],
    {},
    [None],
    [[]],
    [1, 2, 3],
    {"x": 1},
]
"""values that are not expected where they stand, or are"""


def spoiled_json(raw: Any, of: random.Random) -> Any:
    """Return a value of JSON with something wrong, somewhere in it."""
    found = list(places(raw))
    *way, last = of.choice(found)
    parent = raw
    for step in way:
        parent = parent[step]
    what, path = of.random(), ".".join(map(str, (*way, last)))
    if what < 0.7:
        parent[last] = value = of.choice(NASTY) if what < 0.6 else parent[of.choice(list(_steps(parent)))]
        doing(f"{path} = {value!r:.60}")
    elif what < 0.8:
        doing(f"{path} removed")
        del parent[last]
    elif what < 0.9:
        doing(f"{path} and something beside it")
        if isinstance(parent, dict):
            parent[str(of.choice(["x", "../x", last]))] = of.choice(NASTY)
        else:
            parent.insert(last, of.choice([parent[last], *NASTY]))
    else:
        doing(f"{path} changes its type")
        value = parent[last]
        parent[last] = str(value) if not isinstance(value, str) else [value]
    return raw


def _steps(value: Any) -> Iterator[Any]:
    yield from value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for step in _steps(value):
        yield (*way, step)
        yield from places(value[step], (*way, step))


def spoil(path: Path, of: random.Random) -> None:
    """Write something wrong to a file: to its bytes, or where it is JSON mostly to its values."""
    if path.suffix == ".json" and of.random() < 0.8:
        path.write_text(json.dumps(spoiled_json(json.loads(path.read_text()), of)))
    else:
        path.write_bytes(spoiled_bytes(path.read_bytes(), of))
