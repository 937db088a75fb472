"""A site's local data: read once, checked, split by unit, described by a digest. Never leaves the site."""

from foedus.data.check import CheckReport, CheckRow, check_site
from foedus.data.load import load_site_data
from foedus.data.site_data import Quarantined, SiteData, examples_of

__all__ = [
    "CheckReport",
    "CheckRow",
    "Quarantined",
    "SiteData",
    "check_site",
    "examples_of",
    "load_site_data",
]
