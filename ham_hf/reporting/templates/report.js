"use strict";

// Sorting: a button in every heading, for mouse, keyboard and screen reader
const said = document.createElement("p");
said.className = "unseen";
said.setAttribute("role", "status");
document.body.append(said);

function sortRows(body, column, direction) {
  const rows = [...body.rows].map((row) => {
    const text = row.cells[column].textContent.trim();
    return { row, text, number: parseFloat(text.replaceAll(",", "")) };
  });
  const numeric = rows.some(({ number }) => !isNaN(number));
  rows.sort((one, other) =>
    numeric
      ? isNaN(one.number) - isNaN(other.number) || direction * (one.number - other.number) || 0 // no figure: last
      : direction * one.text.localeCompare(other.text, "en"),
  );
  body.append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  for (const [column, heading] of headings.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortRows(table.tBodies[0], column, ascending ? 1 : -1);
      said.textContent = `Sorted by ${button.textContent}, ${ascending ? "ascending" : "descending"}`;
    });
  }
}

// A region that does not scroll needs no tab stop; one that does needs a hint, because scroll bars may be invisible
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const scrolls = target.scrollWidth > target.clientWidth;
    target.tabIndex = scrolls ? 0 : -1;
    target.previousElementSibling.hidden = !scrolls;
  }
});
document.querySelectorAll(".scroll").forEach((region) => watcher.observe(region));

// Open everything for printing
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
