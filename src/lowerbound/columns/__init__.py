"""Columns of tables: raw values to numbers and back, with the Jacobian. No torch.

- schema: the columns of a table, and the map between raw values and numbers
- kinds: infer what a column holds
- base, numbers, dates, categories, skipped: the kinds of columns
- date_formats, calendar: dates as text, read and written; their range and resolution
- levels, spellings: one value in many spellings
- hints: remarks on what may be a code or a date
- arrow: raw Arrow columns as plain numbers or levels
- spread, knots: sorted distinct values, and search among them
"""
