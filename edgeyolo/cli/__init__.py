"""In: a command line. Out: tables for people, JSON for programs (`--json`), an exit code. Verb: one module per verb.

A verb is a public module with a function of its own name; the folder is the registry.
A module loads its stage only inside its command, so `edgeyolo --help` needs neither torch nor OpenCV.
"""
