"""In: a manifest and the artefact files it names. Out: one `.eyb` archive, and on the board a folder of verified files.

Verb: `write_bundle`, `open_bundle`, `rewrite_manifest`.
"""

from edgeyolo.bundle.reader import Bundle, open_bundle, read_manifest
from edgeyolo.bundle.tuned import for_this_device
from edgeyolo.bundle.writer import rewrite_manifest, write_bundle, write_folder

__all__ = [
    "Bundle",
    "for_this_device",
    "open_bundle",
    "read_manifest",
    "rewrite_manifest",
    "write_bundle",
    "write_folder",
]
