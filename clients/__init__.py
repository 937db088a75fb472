"""A site: ClientApp, feature cache, local training, the site's own report."""
