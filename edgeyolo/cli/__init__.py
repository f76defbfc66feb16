"""In: a command line. Out: tables for people, JSON for programs (`--json`), an exit code. Verb: one module per verb.

A verb is a public module with a function of its own name, and the `PANEL` of the help that lists it; the folder is the
registry. Its flags are made from the structs of options in its signature (`flags`).
A module loads its stage only inside its command, so `edgeyolo --help` needs neither torch nor OpenCV.
"""
