"use strict";
// The table of all experiments: its heads sort it, its form filters it.
(() => {
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const upwards = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const values = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((one, two) => {
        const [a, b] = [values(one), values(two)];
        if (a === "" || b === "") return (a === "") - (b === "");  // what is missing stays last
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b;
        return upwards ? order : -order;
      });
      table.tBodies[0].append(...rows);
    }));
  }
  function filter() {
    const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = document.getElementById("status").value, drop = document.getElementById("drop").value;
    const rows = [...document.getElementById("table").tBodies[0].rows];
    for (const row of rows) {
      const text = `${row.cells[0].dataset.value} ${row.cells[1].dataset.value}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word))
        || (status !== "" && row.dataset.status !== status)
        || (drop !== "" && !(-Number(row.dataset.change) <= Number(drop) + 1e-9));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    document.getElementById("count").textContent = `${shown} of ${rows.length} shown`;
  }

  if (document.getElementById("table")) {
    sortable(document.getElementById("table"));
    for (const id of ["filter", "status", "drop"]) {
      document.getElementById(id).addEventListener("input", filter);
    }
    filter();
  }
})();
