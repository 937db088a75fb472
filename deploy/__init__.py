"""From audited model to service."""
