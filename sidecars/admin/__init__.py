"""The admin port: health, metrics, configuration and the pages of the services."""
