"""Rules for what crosses the edge: headers, paths, URLs, addresses, JSON and text of others. Pure."""
