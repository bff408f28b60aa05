"""Text tables: CSV and TSV.

- encoding: bytes to UTF-8 text, within bounds
- dialect: separator and header
- tables: rows of a text table
- numerals: numbers in local notation
- long: files larger than memory
"""
