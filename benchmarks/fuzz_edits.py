"""How `fuzz.py` alters the files of a bundle: edits that a reader might believe, not only flipped bytes."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from typing import Any

from edgeyolo.backends.ncnn.files import TAGS

NUMBERS = (
    *("0", "-1", "1", "2", "3", "4", "7", "8", "16", "32", "102", "255", "256", "-233", "1000", "65535", "65536"),
    *("2147483647", "-2147483648", "2147483648", "4294967296", "1099511627776", "9" * 30, "1e30", "-1e30", "1e-40"),
    *("nan", "inf", "-inf", "0.5", "1e38", "0x10", "", "1.0", "-0.0", "08"),
)
KINDS = (
    *("Convolution", "ConvolutionDepthWise", "Deconvolution", "InnerProduct", "Pooling", "Interp", "Concat", "Split"),
    *(
        "Slice",
        "BinaryOp",
        "Reduction",
        "MemoryData",
        "BatchNorm",
        "Scale",
        "PReLU",
        "ReLU",
        "Clip",
        "UnaryOp",
        "Input",
    ),
    *("Swish", "GELU", "Dropout", "DeconvolutionDepthWise", "Reshape", "LSTM", "Crop", "Quantize", "pnnx.Expression"),
)


def alter_param(rng: random.Random, raw: bytes) -> bytes:
    """One to three edits of lines, words, numbers, kinds and blobs, or of bytes."""
    lines = raw.decode().splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        words = lines[at].split()
        entries = [i for i, word in enumerate(words) if "=" in word]
        choice = rng.randrange(11)
        if choice == 0:
            lines = alter_lines(rng, lines, at)
        elif choice == 1 and at >= 2 and words:
            words[0] = rng.choice(KINDS)
        elif choice == 2 and len(words) > 4:
            other = lines[rng.randrange(2, len(lines))].split()
            words[rng.randrange(len(words))] = rng.choice(other or ["x"])
        elif choice == 3 and len(words) > 3:
            i, j = rng.randrange(len(words)), rng.randrange(len(words))
            words[i], words[j] = words[j], words[i]
        elif choice == 4:
            words.append(f"{rng.choice((*range(32), -23303, -23310, 99))}={rng.choice(NUMBERS)}")
        elif choice == 5 and entries:
            del words[rng.choice(entries)]
        elif choice == 6 and words:
            words[rng.randrange(len(words))] = rng.choice(NUMBERS)
        elif choice == 7:
            return alter_bytes(rng, "\n".join(lines).encode())
        elif entries:
            i = rng.choice(entries)
            parts = words[i].replace("=", ",").split(",")
            parts[rng.randrange(1, len(parts))] = rng.choice((*NUMBERS, str(rng.randrange(0, 40))))
            words[i] = f"{parts[0]}=" + ",".join(parts[1:])
        if choice != 0:
            lines[at] = " ".join(words)
        if not lines:
            break
    return ("\n".join(lines) + "\n").encode()


def alter_lines(rng: random.Random, lines: list[str], at: int) -> list[str]:
    """Leave a line out, repeat one, exchange two, or cut the end off; now and then with the counts made to fit."""
    choice = rng.randrange(4)
    if choice == 0:
        altered = lines[:at] + lines[at + 1 :]
    elif choice == 1:
        altered = [*lines[:at], lines[at], *lines[at:]]
    elif choice == 2:
        other = rng.randrange(len(lines))
        altered = list(lines)
        altered[at], altered[other] = lines[other], lines[at]
    else:
        altered = lines[: max(at, 1)]
    if rng.random() < 0.5 and len(altered) > 2:
        blobs = sum(int(words[3]) for words in map(str.split, altered[2:]) if len(words) > 3 and words[3].isdecimal())
        altered[1] = f"{len(altered) - 2} {blobs}"
    return altered


def alter_bin(rng: random.Random, raw: bytes) -> bytes:
    """Other tags, special floats, or bytes."""
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) // 4) * 4
        choice = rng.randrange(4)
        if choice == 0:
            changed[at : at + 4] = struct.pack("<I", rng.choice((*TAGS.values(), 1, 0xFFFFFFFF)))
        elif choice == 1:
            special = (0.0, -1.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), 1e20)
            changed[at : at + 4] = struct.pack("<f", rng.choice(special))
        elif choice == 2:
            changed[0:4] = struct.pack("<I", rng.choice((*TAGS.values(), 2)))
        else:
            return alter_bytes(rng, bytes(changed))
    return bytes(changed)


def alter_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Flip, cut off, leave out, repeat or append."""
    changed = bytearray(raw)
    choice = rng.randrange(6)
    at = rng.randrange(max(len(changed), 1))
    end = min(len(changed), at + rng.choice((1, 2, 4, 16, 64, 1000)))
    if choice <= 1:
        for _ in range(rng.choice((1, 1, 2, 8))):
            if changed:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif choice == 2:
        del changed[at:]
    elif choice == 3:
        del changed[at:end]
    elif choice == 4:
        changed[at:at] = changed[at:end]
    else:
        changed += rng.randbytes(rng.choice((1, 3, 4, 100)))
    return bytes(changed)


def alter_manifest(rng: random.Random, raw: bytes) -> bytes:
    """Another value somewhere in the tree, a key less or more, or bytes."""
    if rng.random() < 0.2:
        return alter_bytes(rng, raw)
    tree = json.loads(raw)
    for _ in range(rng.choice((1, 1, 2))):
        node: Any = tree
        while True:
            keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.85:
                node = node[key]
                continue
            alter_entry(rng, node, key)
            break
    return json.dumps(tree).encode()


def alter_entry(rng: random.Random, node: Any, key: Any) -> None:
    """Replace or remove an entry of a JSON object or array, or add one beside it."""
    values: tuple[Any, ...] = (
        *(None, True, False, 0, -1, 1, 7, 64, 4096, 65536, 2**31, 2**63, 2**64, 10**30, 1e308, -0.5, 0.1, 1e-40),
        *("", "x", "../../etc/passwd", "/etc/passwd", "\x00", "a" * 5000, [], {}, [0], [1, 2], {"a": 1}, [[8, 8]]),
        *("ncnn", "onnxruntime", "tensorrt", "../ncnn", "_checks", "aarch64", "net.param", "manifest.json", "int8"),
    )
    choice = rng.randrange(4)
    if choice == 0:
        del node[key]
    elif choice == 1 and isinstance(node, dict):
        node[rng.choice(("x", "threads", "engine", "kind", "", "use_fp16_storage", "num_threads"))] = rng.choice(values)
    elif choice == 1:
        node.append(rng.choice((*values, node[key])))
    else:
        node[key] = rng.choice(values)


def alter_archive(rng: random.Random, raw: bytes) -> bytes:
    """Bytes anywhere, fields of its directory, or entries written anew: doubled, renamed, compressed, huge."""
    choice = rng.randrange(4)
    if choice == 0:
        return alter_bytes(rng, raw)
    if choice == 1:
        changed = bytearray(raw)
        start = rng.choice((raw.rfind(b"PK\x01\x02"), raw.rfind(b"PK\x05\x06"), raw.find(b"PK\x01\x02"), 0))
        at = min(start + rng.randrange(46), len(changed) - 4)
        value = rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, rng.randrange(1 << 32)))
        changed[at : at + 4] = struct.pack("<I", value)
        return bytes(changed)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as source, zipfile.ZipFile(out, "w") as sink:
        entries = source.infolist()
        rng.shuffle(entries)
        for entry in entries:
            content = source.read(entry)
            change = rng.randrange(8)
            name = rng.choice((f"../{entry.filename}", "/etc/x", "manifest.json", "a/b", "NET.BIN", "con\x00"))
            if change == 0:
                continue
            if change == 1:
                content = bytes(rng.choice((0, 1, 10**6, 10**7)))
            packed = zipfile.ZIP_DEFLATED if change in (2, 3) else zipfile.ZIP_STORED
            new = zipfile.ZipInfo(name if change == 4 else entry.filename)
            new.external_attr = 0o120777 << 16 if change == 5 else entry.external_attr
            sink.writestr(new, content, packed)
    return out.getvalue()
