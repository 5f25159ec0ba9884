"""Rules for untrusted input: headers, paths, URLs, addresses, JSON and text. All functions are pure."""
