"""Configuration: one field is one row; everything else (loader, checks, help, JSON Schema) is derived from the rows."""
