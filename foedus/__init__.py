"""The treaty: what sites and coordinator share. Studies, sites, data, backbones, the door, run folders."""

__version__ = "0.1.0"
