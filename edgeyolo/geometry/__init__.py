"""In: boxes and pictures. Out: boxes in another frame, fewer boxes, letterboxed pictures. Verb: `make_letterbox`.

Ground floor: numpy and OpenCV only.
"""
