"""Columns of tables: raw values to numbers and back, with the Jacobian. No torch.

- schema: the columns of a table, and the map between raw values and numbers
- kinds: infer what a column holds
- base, numbers, dates, categories: the kinds of columns
- date_formats: dates as text, read and written
- hints: remarks on what may be a code or a date
- arrow: raw Arrow columns as plain numbers or levels
- spread, knots: sorted distinct values, and search among them
"""
