"""The picture in architecture.md: one node per room of edgeyolo/, one arrow per import that no longer way stands for.

python docs/draw_house.py            writes the picture into docs/architecture.md
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "edgeyolo"
DOORS = ("cli", "verbs")
PAGE = ROOT / "docs/architecture.md"
BLOCK = re.compile(r"(<!-- picture: house -->\n).*?(<!-- end -->)", re.DOTALL)


def rooms() -> list[str]:
    """Folders of the package, sorted."""
    return sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())


def find_imports() -> dict[str, set[str]]:
    """Room -> rooms that any of its files imports, inside functions too."""
    names = rooms()
    found: dict[str, set[str]] = {name: set() for name in names}
    for room in names:
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    modules = [f"{node.module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                else:
                    continue
                parts = [module.split(".") for module in modules]
                found[room] |= {p[1] for p in parts if p[0] == "edgeyolo" and len(p) > 1 and p[1] in names}
        found[room].discard(room)
    return found


def reduce_arrows(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows from which all others follow: an import that a longer way stands for is left out."""

    def reach(room: str) -> set[str]:
        return imports[room].union(*(reach(other) for other in imports[room]))

    return sorted(
        (room, other)
        for room, others in imports.items()
        for other in others
        if not any(other in reach(between) for between in others - {other})
    )


def is_upstairs(room: str, imports: dict[str, set[str]]) -> bool:
    """Whether a room needs torch: it, or a room that it imports, names it."""
    texts = (path.read_text(encoding="utf-8") for path in (PACKAGE / room).rglob("*.py"))
    needs = any(re.search(r"^\s*(import torch|from torch)", text, re.MULTILINE) for text in texts)
    return needs or any(is_upstairs(other, imports) for other in imports[room])


def draw_house() -> str:
    """The picture as a Mermaid flow chart, which GitHub and editors draw."""
    imports = find_imports()
    inner = [room for room in imports if room not in DOORS]
    upstairs = [room for room in inner if is_upstairs(room, imports)]
    ground = [room for room in inner if room not in upstairs]
    floors = (
        ("doors: load a room when it is used", list(DOORS)),
        ("upstairs: needs torch", upstairs),
        ("ground floor: what a board installs", ground),
    )
    lines = ["```mermaid", "flowchart TB"]
    for title, members in floors:
        lines += [f'  subgraph "{title}"', f"    {'; '.join(members)}", "  end"]
    lines += [f"  {room} --> {other}" for room, other in reduce_arrows(imports)]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Put the picture into the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda match: match[1] + draw_house() + match[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
