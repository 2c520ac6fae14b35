"""Where telemetry goes: files, a lake, the Hugging Face Hub."""
