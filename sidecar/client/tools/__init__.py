"""Tools over the bus, on the side of those who provide them: `@tool`, `ToolProvider`, and what they need."""
