"""In: nothing. Out: the vocabulary and the file formats that every room shares. Verb: `load_*`, `save_*`, `check_*`.

Ground floor: standard library, numpy and msgspec only.
"""
