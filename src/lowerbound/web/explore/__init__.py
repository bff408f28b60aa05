"""`lowerbound explore`: a page on this machine to look at a model and at millions of rows.

- rows: all rows scored and embedded part by part, in memory-mapped files
- plane: latents in two dimensions, for the map
- cache: the folder of these files, kept between starts
- columns: columns as numbers, dates or levels; colours, filters, and how rows differ
- changes: one row: its reasons, what if it were another, the nearest usual row
- latents: sliders over latents, and what they stand for
- gate: which requests are answered
- routes: the addresses that the page asks
- process: the process that serves the page
- page.html, page.css, page.js: the page
- scatter.js: the map, a bundle of regl-scatterplot; its licences are in scatter-licenses.txt
"""
