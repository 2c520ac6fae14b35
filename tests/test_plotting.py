import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from support.plotting import COLORS, fan, label_line, table_html, use_style


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_colours_reach_contrast_3_on_white():
    for name in ("blue", "orange", "green", "purple", "gold", "grey", "ink"):
        assert 1.05 / (luminance(COLORS[name]) + 0.05) >= 3.0, name


def test_importing_changes_no_style_and_use_style_does():
    plt.rcdefaults()
    assert plt.rcParams["axes.spines.top"]
    use_style()
    assert not plt.rcParams["axes.spines.top"]
    plt.rcdefaults()


def test_fan_names_each_interval_and_spans_it():
    _, axes = plt.subplots()
    fan(axes, np.arange(3), {"90 %": (np.zeros(3), np.ones(3)), "50 %": (np.full(3, 0.3), np.full(3, 0.6))})
    label_line(axes, 2, 0.5, "demand", COLORS["ink"])
    assert [c.get_label() for c in axes.collections] == ["90 % interval", "50 % interval"]
    box = axes.collections[0].get_paths()[0].get_extents()
    assert (box.y0, box.y1) == (0.0, 1.0)
    assert axes.texts[0].get_text() == "demand"
    plt.close("all")


def test_table_formats_numbers_escapes_text_and_marks_missing():
    frame = pd.DataFrame({"cost_usd": [1234.5, None], "policy": ["<b>", "x"]})
    text = table_html(frame, "A & B", {"cost_usd": ",.0f"}, index=False)
    assert "<td>1,234</td>" in text and "&lt;b&gt;" in text and "A &amp; B" in text and "–" in text


def test_tables_show_a_dash_for_every_kind_of_nothing():
    frame = pd.DataFrame(
        {
            "whole": pd.array([1200, None], dtype="Int64"), "part": pd.array([0.5, None], dtype="Float64"),
            "name": pd.array(["<NA>x", None], dtype="string"), "any": ["a", None], "plain": [1.5, np.nan],
        }
    )  # fmt: skip
    last = table_html(frame, formats={"whole": ",.0f"}, index=False).split("<tr>")[-1]
    assert last.count("<td>–</td>") == 5
    first = table_html(frame, formats={"whole": ",.0f"}, index=False).split("<tr>")[-2]
    assert [cell.split("</td>")[0] for cell in first.split("<td>")[1:]] == [
        "1,200",
        "0.500",
        "&lt;NA&gt;x",
        "a",
        "1.50",
    ]
