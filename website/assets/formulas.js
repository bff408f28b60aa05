// Set the formulas of the page with KaTeX.
document.addEventListener("DOMContentLoaded", () => {
  for (const each of document.querySelectorAll(".arithmatex")) {
    renderMathInElement(each, {
      delimiters: [
        {left: "\\(", right: "\\)", display: false},
        {left: "\\[", right: "\\]", display: true},
      ],
      throwOnError: true,
    });
  }
});
