"""How telemetry is made: presets, machines, incidents, and models fitted to traces."""
