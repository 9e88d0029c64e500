/* SPDX-License-Identifier: Apache-2.0 */
(() => {
  "use strict";
  const root = document.documentElement;

  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const name = () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
    button.textContent = isDark ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark ? "light" : "dark"} colours`);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
    root.dataset.theme = isDark ? "light" : "dark";
    name();
  });
  dark.addEventListener("change", name);
  name();

  const unfold = (hash) => {
    const target = hash && document.getElementById(decodeURIComponent(hash.slice(1)));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  // A link to the current hash fires no hashchange, and its target may have been folded since.
  document.addEventListener("click", (event) => {
    if (!event.ctrlKey && !event.metaKey) unfold(event.target.closest("a")?.hash);
  });
  addEventListener("hashchange", () => unfold(location.hash));
  unfold(location.hash);

  const value = (row, column) => {
    const cell = row.cells[column];
    const raw = cell.dataset.v ?? cell.textContent.trim();
    const number = Number(raw);
    return raw !== "" && Number.isFinite(number) ? number : raw === "" ? null : raw;
  };
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const control = document.createElement("button");
      control.type = "button";
      control.append(...head.childNodes);
      head.append(control);
      control.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        const known = (row) => value(row, column) !== null;
        rows.sort((a, b) => {
          if (known(a) !== known(b)) return known(a) ? -1 : 1;
          return (down ? -1 : 1) * order(value(a, column), value(b, column));
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  for (const input of document.querySelectorAll("input[data-filter]")) {
    const tables = input.dataset.filter.split(" ").map((id) => document.getElementById(id)).filter(Boolean);
    const said = document.getElementById(`${input.id}-said`);
    input.closest(".tools").hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = tables.map((table) => [...table.tBodies[0].rows]);
      const found = new Set();
      for (const row of rows[0]) {
        const text = row.textContent.toLowerCase().replaceAll("\u00a0", " ");
        row.hidden = !words.every((word) => text.includes(word));
        if (!row.hidden) found.add(row.querySelector("a").hash);
      }
      for (const row of rows.slice(1).flat()) row.hidden = !found.has(row.querySelector("a").hash);
      said.textContent = words.length ? `${found.size} runs` : "";
    });
  }
})();
