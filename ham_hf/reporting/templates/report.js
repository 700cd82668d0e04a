"use strict";

// Sorting: a button in every heading, for the mouse, the keyboard and a screen reader
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

// What does not scroll needs no stop of the Tab key
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});
document.querySelectorAll(".scroll").forEach((region) => watcher.observe(region));

// On paper nothing can be opened
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
