"""The command of this part: `python -m support.telemetry generate | traces | check`; `--help` lists the options."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pandas as pd
import yaml

from support.errors import BookError, SourceError
from support.telemetry.generation.generator import OPTIONS, stream, synthetic
from support.telemetry.generation.presets import PRESETS
from support.telemetry.generation.progress import with_progress
from support.telemetry.storage.export import Layout, Partition, write
from support.writing import plural

FORMATS = ("parquet", "csv", "csv.gz", "huggingface")
DEFAULT_SEED = 20261121
LOAD_OPTIONS = ("seed", "timestamp_column", "resource_column", "timezone", "duplicates")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0, 2 for what the caller can mend (one sentence on stderr), 130 when interrupted."""
    parser, options_of_generate = _parser()
    options = parser.parse_args(arguments)
    try:
        if getattr(options, "config", None):
            options_of_generate.set_defaults(**_configured(options.config, vars(options)))
            options = parser.parse_args(arguments)  # the command line wins
        options.run(options)
        sys.stdout.flush()
    except BookError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _configured(path: str, known: Mapping[str, object]) -> dict[str, object]:
    """Options of `generate` from a YAML file, names as on the command line; SourceError for one that is not there."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:120]}).") from None
    if not isinstance(given, dict):
        raise SourceError(f"{path}: holds no options. Write lines such as preset: banking.")
    named = {str(name).replace("-", "_"): value for name, value in given.items()}
    if unknown := sorted(set(named) - set(known) | {"config", "run"} & set(named)):
        raise SourceError(f"{path}: no option {unknown[0]!r}. Use those of generate --help, without the dashes.")
    return {name: value if isinstance(value, bool) else str(value) for name, value in named.items()}


def _generate(options: argparse.Namespace) -> None:
    asked = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    asked |= {"seed": options.seed, "step_seconds": options.step_seconds}
    hub = options.format == "huggingface"
    if options.push and not hub:
        raise SourceError("--push: only a Hugging Face dataset can be pushed. Add --format huggingface.")
    if hub and options.overwrite:
        raise SourceError("--overwrite: a Hugging Face dataset is written to a new folder only. Choose another --out.")
    suffix = "" if hub else f".{options.format or 'parquet'}"
    out = options.out or options.preset.replace(":", "-").replace("/", "-") + suffix
    print(f"generating {options.preset} with seed {options.seed} into {out}", flush=True)
    if hub:
        _generate_for_hub(options, out, asked)
        return
    blocks = stream(options.preset, **asked)
    usual = PRESETS[options.preset].n_resources if options.preset in PRESETS else None
    report = write(
        with_progress(blocks, n_resources=options.n_resources or usual),
        out,
        format=options.format,
        layout=options.layout,
        partition=options.partition,
        decimals=options.decimals,
        overwrite=options.overwrite,
    )
    print(
        f"wrote {report.rows:,} rows of {plural(report.resources, 'resource')} (known anomalies: {report.labels:,}): "
        f"{report.bytes / 1e6:,.1f} MB in {report.seconds:.1f} s ({report.rows_per_second:,.0f} rows/s)"
    )
    print(f"units, origin, resources and known anomalies are in {report.files[1]}")
    print(f'next: from support.telemetry.storage.export import read; telemetry = read("{report.files[0]}")')


def _generate_for_hub(options: argparse.Namespace, out: str, asked: dict[str, object]) -> None:
    from support.telemetry.storage import hub  # needs the extra `scale`, and a second

    telemetry = synthetic(options.preset, **asked)  # type: ignore[arg-type]
    splits = hub.to_splits(telemetry, options.form)
    title = f"Synthetic telemetry: {options.preset}"
    hub.save(splits, out, hub.card(telemetry, licence=options.licence, title=title, form=options.form))
    print(
        "wrote " + ", ".join(f"{part.num_rows:,} {name}" for name, part in splits.items()) + " examples and README.md"
    )
    if options.push:
        print(f"published at {hub.push(out, options.push, private=not options.public)}")
    print(f'next: from datasets import load_dataset; dataset = load_dataset("{out}")')


def _traces(options: argparse.Namespace) -> None:
    from support.telemetry.reading.traces import datasets

    _show(datasets().reset_index()[["dataset", "kind", "title"]])
    print('next: from support.telemetry import load; telemetry = load("worldcup98")')


def _check(options: argparse.Namespace) -> None:
    from support.telemetry.judging.quality import quality
    from support.telemetry.sources import load

    print(f"reading {options.source}", flush=True)
    named = {name: getattr(options, name) for name in LOAD_OPTIONS if getattr(options, name) is not None}
    telemetry = load(options.source, **named)
    times = telemetry.observations.index.get_level_values("timestamp")
    print(
        f"{len(telemetry.observations):,} rows of {plural(len(telemetry.resource_ids), 'resource')} every {telemetry.step_seconds:g} s, "
        f"{times.min():%Y-%m-%d %H:%M} to {times.max():%Y-%m-%d %H:%M} UTC"
    )
    for repair in telemetry.repairs:
        print(f"  {repair.what}: {repair.count:,}")
    report = quality(telemetry)
    table = report.table()
    _show(table.assign(value=["-" if pd.isna(v) else f"{v:.3g}" for v in table["value"]]))
    print(f"verdict: {report.verdict}. {report.headline()}")
    if options.figure:
        from support.telemetry.judging.overview import overview

        drawn = overview(telemetry)
        try:
            drawn.savefig(options.figure)
        except (ValueError, OSError) as error:
            raise SourceError(f"{options.figure}: the figure cannot be written ({error}).") from None
        print(f"next: open {options.figure}")
    else:
        print("next: --figure overview.png draws seven panels of it")


def _show(table: pd.DataFrame) -> None:
    """Print a table, columns aligned on the left."""
    cells = [list(map(str, table.columns)), *table.astype(str).to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parser, and that of `generate`."""
    parser = argparse.ArgumentParser(prog="python -m support.telemetry", description=__doc__.split(";")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    make = commands.add_parser("generate", help="write synthetic telemetry to a file or folder")
    make.set_defaults(run=_generate)
    make.add_argument("--preset", default="workload", help=f"{', '.join(PRESETS)} or fitted:TRACE (default: workload)")
    make.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line wins")
    make.add_argument("--out", help="NAME.parquet, NAME.csv, NAME.csv.gz, or a folder (default: PRESET.parquet)")
    make.add_argument("--format", choices=FORMATS, help="default: what --out says")
    make.add_argument("--start", help="first day, UTC (YYYY-MM-DD)")
    make.add_argument("--end", help="last day, UTC, included")
    make.add_argument("--days", type=int, help="number of days, instead of --end")
    make.add_argument("--step-seconds", type=float, help="distance of two rows of a resource")
    make.add_argument("--n-resources", type=int, help="number of resources")
    make.add_argument("--workload", help="one type of the taxonomy instead of a mix")
    make.add_argument("--timezone", help="of the daily cycle, such as Europe/Berlin")
    make.add_argument("--country", help="of the holidays, such as DE")
    make.add_argument("--providers", help="of the preset cloud: some of AWS,Azure,GCP")
    make.add_argument("--resource-types", help="of the preset cloud: some of compute,database,storage,network")
    make.add_argument("--anomaly-rate", type=float, help="share of intervals in a labelled anomaly, such as 0.01")
    make.add_argument("--missing-frac", type=float, help="share of intervals without values, such as 0.01")
    make.add_argument("--seed", type=int, default=DEFAULT_SEED, help=f"same seed, same data (default: {DEFAULT_SEED})")
    make.add_argument(
        "--layout", choices=get_args(Layout), default="tidy",
        help="tidy: resource, time and metrics; joined: and the columns of the resource; flat: and the calendar",
    )  # fmt: skip
    make.add_argument("--partition", choices=get_args(Partition), default="block", help="of a folder (default: block)")
    make.add_argument("--decimals", type=int, help="round metrics to so many")
    make.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote under this name")
    make.add_argument("--form", default="rows", help="of a Hugging Face dataset: rows, sequences or anomaly_windows")
    make.add_argument("--licence", default="cc0-1.0", help="of a Hugging Face dataset (default: cc0-1.0)")
    make.add_argument("--push", metavar="USER/NAME", help="publish a Hugging Face dataset under this name, privately")
    make.add_argument("--public", action="store_true", help="publish it for everybody")
    traces = commands.add_parser("traces", help="list the real traces the book knows")
    traces.set_defaults(run=_traces)
    check = commands.add_parser("check", help="say what is wrong with a file, a trace or a preset")
    check.set_defaults(run=_check)
    check.add_argument("source", help="path or URL of a CSV or Parquet file, a trace, or synthetic:PRESET")
    check.add_argument("--figure", metavar="FILE", help="also draw an overview (PNG, PDF or SVG)")
    check.add_argument("--seed", type=int, help="of a synthetic source")
    check.add_argument("--timestamp-column", help="column with the time (default: guessed)")
    check.add_argument("--resource-column", help="column that names the resource (default: guessed)")
    check.add_argument("--timezone", help="timezone of timestamps without one (default: UTC)")
    check.add_argument("--duplicates", choices=["refuse", "sum", "mean", "first"], help="two values at one time")
    return parser, make


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run cleans up like an interrupted one
    sys.exit(main())
