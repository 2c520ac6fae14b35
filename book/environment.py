"""Write environment.yml from pyproject.toml: `python -m book.environment`. pyproject.toml stays the one source."""

from __future__ import annotations

import tomllib

import yaml

from book.chapters import ROOT

__all__ = ["environment_text", "main"]


def environment_text() -> str:
    """The conda environment: Python and Node from conda-forge, the packages of pyproject.toml by pip, in its words."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    environment = {
        "name": project["name"],
        "channels": ["conda-forge"],
        "dependencies": [f"python{project['requires-python']}", "nodejs=20", "pip", {"pip": [*pins, "-e ."]}],
    }
    head = "# Made from pyproject.toml by `make lock`. Exact versions: requirements.lock.\n"
    return head + yaml.safe_dump(environment, sort_keys=False, width=120)


def main() -> None:
    """Write environment.yml."""
    (ROOT / "environment.yml").write_text(environment_text(), encoding="utf-8")
    print("environment.yml: written from pyproject.toml")


if __name__ == "__main__":
    main()
