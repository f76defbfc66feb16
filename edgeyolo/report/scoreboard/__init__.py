"""In: files that say how accurate, fast and large artefacts are. Out: one page that shows them side by side.

Verb: `read_source` what is given, `join` it, `write_page`.
"""

from edgeyolo.report.scoreboard.join import join
from edgeyolo.report.scoreboard.page import write_page
from edgeyolo.report.scoreboard.pictures import SideBySide, compare_on
from edgeyolo.report.scoreboard.read import Found, published_by_others, read_source

__all__ = ["Found", "SideBySide", "compare_on", "join", "published_by_others", "read_source", "write_page"]
