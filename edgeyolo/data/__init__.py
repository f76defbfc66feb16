"""In: labelled pictures (YOLO, COCO or VOC). Out: `Sample`s, whole or augmented, and a `Report`. Verb: `open_dataset`.

Ground floor: numpy, OpenCV, msgspec and PyYAML only. A format is one module with `read_split`; no list names it.
"""
