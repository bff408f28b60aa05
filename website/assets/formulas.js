// Set the formulas of the page with KaTeX.
document.addEventListener("DOMContentLoaded", () => {
  for (const each of document.querySelectorAll(".arithmatex")) {
    const text = each.textContent.trim(); // \(...\) in a line, \[...\] on lines of its own
    katex.render(text.slice(2, -2), each, {displayMode: text.startsWith("\\[")});
  }
});
