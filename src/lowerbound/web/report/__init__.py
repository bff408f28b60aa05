"""The report: one HTML file about a model and rows, which loads nothing from elsewhere.

- measure: the numbers of the report, from the public methods of a model
- words: the numbers as sentences for readers who know no statistics
- charts: the numbers as Vega-Lite charts
- pixels: pictures as they are embedded in the page
- page: the page, from its template
"""
