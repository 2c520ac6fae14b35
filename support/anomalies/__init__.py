"""Anomalies: detectors with one interface, what their alerts are worth, and the corpora they are judged on."""
