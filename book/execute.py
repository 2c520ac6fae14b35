"""Execute the chapters with papermill into _build/: `python -m book.execute [--profile smoke|twins] [chapter ...]`.

A chapter is run again only if its source, the part of support/ it can reach, the lock file, Python, its parameters or
the mirror of traces changed. Results are written to a temporary name and renamed, so an interrupted run leaves nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml

from book.chapters import ROOT, Chapter, chapters, parameters
from book.notebooks import text_of
from book.outputs import output_problems
from support.errors import BookError
from support.telemetry import trace_available
from support.telemetry.generation.presets import PRESETS

__all__ = ["Result", "execute", "given_parameters", "main"]

# Folder in _build, sizes, and what the chapters call the profile
PROFILES = {
    "publication": ("executed", "book/publication.yml", "publication"),
    "twins": ("twins", "book/publication.yml", "publication"),  # as where none of the real traces can be had
    "smoke": ("smoke", "tests/smoke.yml", "smoke"),
}
CELL_TIMEOUT_SECONDS = 600
NOT_STARTED = "Kernel died before replying"  # two kernels that start at once may have been given the same port


@dataclass(frozen=True)
class Result:
    """How the run of a chapter ended; `seconds` is wall time, `reused` says that nothing had changed."""

    name: str
    seconds: float
    fingerprint: str
    parameters: dict[str, object]
    reused: bool = False
    problems: tuple[str, ...] = ()


def given_parameters(chapter: Chapter, profile: str) -> dict[str, object]:
    """Parameters of `chapter` under `profile`; a trace that cannot be had becomes its synthetic twin.

    Where there is no twin, what is given for that source is dropped, so that the chapter takes what it is written with:
    for `llm_source` the parameters that begin with `llm_`, for `source` those of no other source. Then the claims are
    shown, not judged. Raises BookError if a name is not in the chapter's parameters cell (papermill would only warn).
    """
    file = ROOT / PROFILES[profile][1]
    given = parameters(file).get(chapter.name, {}) | {"profile": PROFILES[profile][2]}
    known = set(papermill.inspect_notebook(str(chapter.notebook)))
    if unknown := sorted(set(given) - known):
        raise BookError(f"{file.name}: {chapter.name} has no parameter {', '.join(unknown)}. It has {sorted(known)}.")
    sources = {name: str(value) for name, value in given.items() if name.endswith("source")}
    for name, source in sources.items():
        if source.startswith("synthetic") or trace_available(source):
            continue
        kind = source.split(":")[0]
        if kind in PRESETS:
            given[name] = f"synthetic:{kind}"
            print(
                f"{chapter.name}: the trace {source} cannot be had here; the page uses its synthetic twin and says so"
            )
            continue
        print(f"{chapter.name}: the trace {source} cannot be had here; the page uses generated telemetry and says so")
        kept = {key: value for key, value in given.items() if _source_of(key, sources) != name}
        given = kept | {"profile": "explore"}  # sizes and bounds of the publication are of the trace
    return given


def execute(chapter: Chapter, profile: str, *, force: bool = False) -> Result:
    """Run one chapter in a process of its own, unless nothing it depends on changed; check what would reach the page."""
    if not chapter.notebook.exists() or chapter.notebook.read_text(encoding="utf-8") != text_of(chapter):
        chapter.notebook.write_text(text_of(chapter), encoding="utf-8")  # else an old text would run as the new source
        print(f"  written from its source: notebooks/{chapter.name}.ipynb", flush=True)
    given = given_parameters(chapter, profile)
    folder = ROOT / "_build" / PROFILES[profile][0]
    folder.mkdir(parents=True, exist_ok=True)
    target, record = folder / f"{chapter.name}.ipynb", folder / f"{chapter.name}.json"
    fingerprint = chapter.fingerprint(given, _mirror_fingerprint())
    if not force and target.exists():
        known = _known(record)
        if known.get("fingerprint") == fingerprint:
            return Result(chapter.name, known["seconds"], fingerprint, given, reused=True)
    temporary = folder / f".{chapter.name}.{os.getpid()}.ipynb"
    started = time.monotonic()
    try:
        run = _run(chapter, temporary, given)
        if NOT_STARTED in run.stderr:
            print(f"  {chapter.name}: its kernel did not start; trying once more")
            run = _run(chapter, temporary, given)
        seconds = time.monotonic() - started
        problems = _problems(temporary, run)
        if problems:
            if temporary.exists():
                failed = ROOT / "_build" / "failed" / f"{chapter.name}.ipynb"
                failed.parent.mkdir(exist_ok=True)
                temporary.replace(failed)
                problems.append(f"the run is kept in {failed.relative_to(ROOT)}")
            return Result(chapter.name, seconds, fingerprint, given, problems=tuple(problems))
        _strip_timings(temporary, chapter)
        result = Result(chapter.name, round(seconds, 1), fingerprint, given)
        # the old record must not vouch for the new page if the next lines are interrupted
        record.unlink(missing_ok=True)
        temporary.replace(target)
        temporary.write_text(json.dumps(asdict(result), indent=1, default=str) + "\n", encoding="utf-8")
        temporary.replace(record)
        return result
    finally:
        temporary.unlink(missing_ok=True)


def _known(record: Path) -> dict[str, Any]:
    """What an earlier run recorded; nothing where there is no record, or half of one."""
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return {}


def _attempt(chapter: Chapter, profile: str, force: bool) -> Result:
    """`execute`, where what stops a chapter before it runs (a parameter, the syntax, a folder) is a problem of that chapter."""
    try:
        return execute(chapter, profile, force=force)
    except (OSError, SyntaxError, ValueError, yaml.YAMLError) as error:
        return Result(chapter.name, 0.0, "", {}, problems=(f"{type(error).__name__}: {error}",))


def main(arguments: list[str] | None = None) -> int:
    """Run the named chapters (default: all), print seconds for each, exit 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m book.execute", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("chapter", nargs="*", help="names such as 12_autoscaling_policies (default: all)")
    parser.add_argument(
        "--profile", choices=sorted(PROFILES), default="publication", help="twins: publication without any real trace"
    )
    parser.add_argument("--force", action="store_true", help="run even if nothing changed")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="chapters at a time")
    options = parser.parse_args(arguments)
    wanted = [c for c in chapters() if not options.chapter or c.name in options.chapter]
    if missing := sorted(set(options.chapter) - {c.name for c in wanted}):
        print(f"no chapter {', '.join(missing)}; there are {', '.join(c.name for c in chapters())}", file=sys.stderr)
        return 2
    if options.jobs < 1:
        print(f"--jobs is {options.jobs}; at least one chapter at a time is needed", file=sys.stderr)
        return 2
    if options.profile == "twins":  # an empty mirror: nothing is found, nothing is downloaded
        nothing = ROOT / "_build" / PROFILES["twins"][0] / "no-traces"
        nothing.mkdir(parents=True, exist_ok=True)
        os.environ["BOOK_DATA"] = str(nothing)
    failures = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        print(f"executing {len(wanted)} chapters ({options.profile}), {options.jobs} at a time", flush=True)
        for done in pool.map(lambda c: _attempt(c, options.profile, options.force), wanted):
            state = "FAILED" if done.problems else "unchanged, kept" if done.reused else "done"
            print(f"  {done.name:<32} {done.seconds:6.1f} s  {state}", flush=True)
            for problem in done.problems:
                print(f"      {problem}", flush=True)
            failures += bool(done.problems)
    if failures:
        print(f"{failures} of {len(wanted)} chapters failed. Next: mend the source and run the same command again.")
    return 1 if failures else 0


def _source_of(name: str, sources: Iterable[str]) -> str:
    """The source that a parameter belongs to: `llm_days` to `llm_source`, what begins like no other to `source`."""
    return next((s for s in sources if s != "source" and name.startswith(s.removesuffix("source"))), "source")


def _run(chapter: Chapter, target: Path, given: dict[str, object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(chapter, target, given), env=_environment(), capture_output=True, text=True)


def _command(chapter: Chapter, target: Path, given: dict[str, object]) -> list[str]:
    return [
        *(sys.executable, "-W", "ignore", "-m", "papermill", str(chapter.notebook), str(target)),
        *("--cwd", str(chapter.notebook.parent), "--no-progress-bar", "--log-level", "ERROR"),
        *("--execution-timeout", str(CELL_TIMEOUT_SECONDS), "--start-timeout", "180", "-y", yaml.safe_dump(given)),
    ]


def _environment() -> dict[str, str]:
    """The kernel's environment: one BLAS thread a chapter, JAX on the CPU unless said otherwise, its compilations kept."""
    cache = ROOT / "_build" / "cache"
    defaults = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    environment = defaults | dict(os.environ) | {"PYTHONHASHSEED": "0"}
    if "BOOK_DATA" in environment:  # the kernel's working directory is notebooks/, so a relative path would break
        environment["BOOK_DATA"] = str(Path(environment["BOOK_DATA"]).resolve())
    return environment


def _mirror_fingerprint() -> str:
    """Identity of the BOOK_DATA mirror: its registry's hash, or nothing."""
    registry = Path(os.environ["BOOK_DATA"]) / "registry.csv" if "BOOK_DATA" in os.environ else None
    return hashlib.sha256(registry.read_bytes()).hexdigest() if registry and registry.exists() else ""


def _problems(target: Path, run: subprocess.CompletedProcess[str]) -> list[str]:
    if not target.exists():
        return [f"papermill wrote nothing: {run.stderr.strip()[-800:]}"]
    found = output_problems(nbformat.read(target, as_version=4))
    if run.returncode and not found:
        found = [f"papermill exited with {run.returncode}: {run.stderr.strip()[-800:]}"]
    return found


def _strip_timings(target: Path, chapter: Chapter) -> None:
    """Drop papermill's timings and mend relative paths, so that what is published depends on the run's results only."""
    notebook = nbformat.read(target, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("jupytext", None)  # of a download, which has no source beside it
    if thumbnail := notebook.metadata.get("thumbnail"):  # relative to the source, and mystmd looks from here
        notebook.metadata["thumbnail"] = os.path.relpath(chapter.source.parent / thumbnail, target.parent)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    sys.exit(main())
