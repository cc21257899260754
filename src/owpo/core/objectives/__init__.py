"""One file an objective. Each is found by its `@register`; no list is kept here."""
