"""What every page loads: own styles and script, fonts and KaTeX's style sheet from the npm packages, cut to what is used."""

from __future__ import annotations

import json
import re
from pathlib import Path

from book.theme.site import THEME, ThemeError

__all__ = ["KATEX_VERSION", "fixed_assets"]

KATEX_VERSION = "0.15.6"  # the one inside mystmd 1.11: the style sheet must be of the version that set the formulas
FONTS = (
    ("source-serif-4", ("wght.css", "wght-italic.css"), ("latin", "latin-ext", "greek")),
    ("source-sans-3", ("wght.css", "wght-italic.css"), ("latin", "latin-ext", "greek")),
    ("source-code-pro", ("wght.css",), ("latin", "latin-ext", "greek")),
)
FACE = re.compile(r"/\* ([\w-]+) \*/\s*(@font-face \{.*?\})", re.DOTALL)


def fixed_assets(modules: Path = THEME / "node_modules") -> dict[str, bytes]:
    """File name -> content of everything under `assets/`.

    Raises ThemeError if the npm packages are missing or KaTeX has another version than mystmd's.
    """
    package = modules / "katex" / "package.json"
    if not package.exists():
        raise ThemeError(f"fonts and formula styles are missing. Next: cd {THEME.parent.name}/{THEME.name} && npm ci")
    version = json.loads(package.read_text(encoding="utf-8"))["version"]
    if version != KATEX_VERSION:
        raise ThemeError(f"KaTeX is {version}, but mystmd sets formulas with {KATEX_VERSION}. Pin it in package.json.")
    files = {name: (THEME / name).read_bytes() for name in ("book.css", "book.js", "icon.svg")}
    faces = []
    for family, sheets, subsets in FONTS:
        folder = modules / "@fontsource-variable" / family
        files[f"fonts/LICENSE-{family}.txt"] = (folder / "LICENSE").read_bytes()
        for sheet in sheets:
            for name, face in FACE.findall((folder / sheet).read_text(encoding="utf-8")):
                if re.sub(rf"^{family}-|-wght-(normal|italic)$", "", name) in subsets:
                    file = re.search(r"files/([\w.-]+\.woff2)", face)
                    assert file is not None, f"{sheet} of {family} has another form than expected"
                    files[f"fonts/{file.group(1)}"] = (folder / "files" / file.group(1)).read_bytes()
                    faces.append(face.replace("./files/", "fonts/"))
    files["fonts.css"] = "\n".join(faces).encode()
    dist = modules / "katex" / "dist"
    style = (dist / "katex.min.css").read_text(encoding="utf-8")
    style = re.sub(r',url\([^)]*\.(woff|ttf)\) format\("\w+"\)', "", style).replace("url(fonts/", "url(katex/")
    files["katex.css"] = style.encode()
    files["katex/LICENSE.txt"] = (modules / "katex" / "LICENSE").read_bytes()
    for name in re.findall(r"url\(katex/([\w-]+\.woff2)\)", style):
        files[f"katex/{name}"] = (dist / "fonts" / name).read_bytes()
    return files
