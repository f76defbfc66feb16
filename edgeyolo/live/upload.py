"""A picture that a client sent: its size is known, and allowed, before any memory is taken for it."""

from __future__ import annotations

import re
from email.message import Message

from edgeyolo.data.image_file import decode_image, stated_hw
from edgeyolo.live.replies import Head, Refusal
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import ImageError

_KNOWN = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF")
_MOST_SCANS = 100  # of a JPEG: each is decoded over the whole picture, and takes a dozen bytes
_MOST_PARTS = 20
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")


def read_upload(head: Head, body: bytes, most_pixels: int) -> Image:
    """The picture of a request: its body, or the first file of a form.

    Raises:
        Refusal: none, not a picture, or a picture with more pixels.
    """
    raw = _first_file(head, body)
    if not raw:
        raise Refusal("bad-request", "no picture was sent", hint="Send it as the body, or as the file of a form")
    if not raw.startswith(_KNOWN):
        raise Refusal("not-a-picture", "is not a picture", hint="JPEG, PNG, BMP and WebP are read")
    height, width = stated_hw(raw) or (0, 0)
    if min(height, width) < 1:
        raise Refusal("not-a-picture", "does not say how large it is", hint="JPEG, PNG, BMP and WebP are read")
    if height * width > most_pixels:
        raise Refusal("too-many-pixels", f"is {width}x{height}, and {most_pixels:,} pixels are the most")
    if raw.count(b"\xff\xda") > _MOST_SCANS and raw.startswith(_KNOWN[0]):
        raise Refusal("not-a-picture", f"has more than {_MOST_SCANS} scans", hint="Save it as an ordinary JPEG")
    try:
        return decode_image(raw, "the picture")
    except ImageError as error:
        raise Refusal("not-a-picture", error.what, hint=error.hint) from None


def _first_file(head: Head, body: bytes) -> bytes:
    """The body itself, unless it is a form. Source: RFC 7578, and RFC 2046, section 5.1."""
    declared = Message()
    declared["Content-Type"] = head.headers.get("content-type", "")
    if declared.get_content_type() != "multipart/form-data":
        return body
    boundary = declared.get_param("boundary")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise Refusal("bad-request", "is a form without a boundary")
    mark = b"\r\n--" + boundary.encode("ascii")
    whole = b"\r\n" + body
    at = whole.find(mark)
    for _ in range(_MOST_PARTS):
        start = at + len(mark)
        if at < 0 or whole.startswith(b"--", start):
            return b""
        content = whole.find(b"\r\n\r\n", start)
        end = whole.find(mark, start)
        if content < 0 or end < 0:
            raise Refusal("bad-request", "is a form that is cut off")
        if content < end and b"filename" in whole[start:content].lower():
            return whole[content + 4 : end]
        at = end
    return b""
