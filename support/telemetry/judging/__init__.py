"""What telemetry is like: quality, seasonality, outliers, an overview, features of machines."""
