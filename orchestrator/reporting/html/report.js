"use strict";
// Everything can be read without this: it sorts tables, switches the theme and opens what is folded before printing.
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const chosen = /theme=(dark|light)/.exec(location.hash);
if (chosen) root.style.colorScheme = chosen[1];

const button = document.getElementById("theme");
button.hidden = false;
button.addEventListener("click", () => {
  const now = root.style.colorScheme || (dark.matches ? "dark" : "light");
  root.style.colorScheme = now === "dark" ? "light" : "dark";
});

const number = (text) => Number.parseFloat(text.replace("−", "-").replaceAll(",", ""));
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return Number.isNaN(x) ? a.localeCompare(b) : x - y;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const sorter = document.createElement("button");
    sorter.type = "button";
    sorter.textContent = head.textContent;
    head.replaceChildren(sorter);
    sorter.addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [row.cells[column].textContent, row]);
      rows.sort(([a], [b]) => compare(a, b) * (falls ? -1 : 1));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
