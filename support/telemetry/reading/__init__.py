"""How telemetry is read: files, traces, logs, exports of other systems, running systems."""
