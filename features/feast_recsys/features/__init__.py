"""The one place that talks to Feast: settings, read plans, readers, the catalogue, training sets."""
