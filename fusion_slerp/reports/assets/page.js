"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  /* Files are made here, from what the page holds. */
  function save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const fileName = String(data.name).replace(/[^\w.-]+/g, "_") || "report";

  /* A cell that a spreadsheet would run as a formula starts with an apostrophe. */
  function csvCell(value) {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+@\t\r]|^-(?!\d)/.test(text)) text = "'" + text;
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }
  const csv = (rows) => rows.map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

  byId("save-data").addEventListener("click", () =>
    save(fileName + "-report.json", "application/json", JSON.stringify(data, null, 1)));
  for (const button of all("[data-csv]")) {
    button.addEventListener("click", () => {
      const rows = all("tr", button.parentElement).map((row) => all("th,td", row).map((cell) =>
        cell.textContent.trim().replaceAll("−", "-").replaceAll(/(\d),(?=\d{3})/g, "$1")));
      save(`${fileName}-${button.dataset.csv}.csv`, "text/csv", csv(rows));
    });
  }
  for (const button of all("[data-copy]")) {
    button.addEventListener("click", async () => {
      const code = byId(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  }

  /* Light, dark, or as the system has it. */
  const themes = ["system", "light", "dark"];
  const theme = byId("theme");
  theme.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = themes[(themes.indexOf(now) + 1) % themes.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    theme.textContent = "Theme: " + next;
  });

  /* What is pointed at, or reached by keyboard, is shown next to it and said. */
  const tip = byId("tip");
  const said = byId("said");
  function show(text, x, y, aloud) {
    tip.textContent = text;
    tip.classList.add("on");
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(Math.max(6, x + 14), innerWidth - width - 6);
    const top = y - height - 12 < 6 ? y + 18 : y - height - 12;
    tip.style.left = left + "px";
    tip.style.top = top + "px";
    if (aloud) said.textContent = text.replaceAll("\n", ", ");
  }
  const hide = () => tip.classList.remove("on");
  addEventListener("scroll", hide, { passive: true });

  for (const plot of all(".plot")) {
    let here = null;
    const drawn = () => all("[data-read]", plot).filter((band) => band.getClientRects().length);
    const at = (band, x, y, aloud) => {
      here?.classList.remove("here");
      here = band;
      if (!band) return hide();
      band.classList.add("here");
      show(band.dataset.read.replaceAll("|", "\n"), x, y, aloud);
    };
    plot.addEventListener("pointermove", (event) => {
      const band = event.target.closest?.("[data-read]");
      at(band, event.clientX, event.clientY, false);
    });
    plot.addEventListener("pointerleave", () => at(null));
    plot.addEventListener("blur", () => at(null));
    plot.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9 };
      if (event.key === "Escape") return at(null);
      if (!(event.key in steps)) return;
      event.preventDefault();
      const bands = drawn();
      if (!bands.length) return;
      const now = bands.indexOf(here);
      const next = now < 0 ? (steps[event.key] > 0 ? 0 : bands.length - 1) : now + steps[event.key];
      const band = bands[Math.min(Math.max(next, 0), bands.length - 1)];
      const box = band.getBoundingClientRect();
      at(band, box.left + box.width / 2, box.top + 8, true);
    });
  }

  for (const grid of all(".heat")) {
    const rows = all("tbody tr", grid).map((row) => all("td", row));
    const columns = all("thead th", grid).slice(1).map((cell) => cell.textContent);
    const names = all("tbody tr th", grid).map((cell) => cell.lastChild.textContent);
    const first = rows[0]?.[0];
    if (!first) continue;
    first.tabIndex = 0;
    let current = first;
    const place = (cell) => [cell.parentElement.rowIndex - 1, cell.cellIndex - 1];
    const read = (cell) => {
      const [i, j] = place(cell);
      const value = cell.textContent ? cell.textContent + (grid.dataset.unit ?? "") : "no value";
      return `${names[i]}, ${grid.dataset.column} ${columns[j]}\n${value}`;
    };
    const point = (cell, aloud) => {
      const box = cell.getBoundingClientRect();
      show(read(cell), box.left + box.width / 2, box.top + 4, aloud);
    };
    grid.addEventListener("pointermove", (event) => {
      const cell = event.target.closest("td");
      if (cell) point(cell, false);
      else hide();
    });
    grid.addEventListener("pointerleave", hide);
    grid.addEventListener("focusin", (event) => event.target.matches("td") && point(event.target, true));
    grid.addEventListener("focusout", hide);
    grid.addEventListener("keydown", (event) => {
      const [i, j] = place(current);
      const moves = {
        ArrowRight: [i, j + 1], ArrowLeft: [i, j - 1], ArrowDown: [i + 1, j], ArrowUp: [i - 1, j],
        Home: [event.ctrlKey ? 0 : i, 0], End: [event.ctrlKey ? rows.length - 1 : i, columns.length - 1],
      };
      if (event.key === "Escape") return hide();
      const next = moves[event.key] && rows[moves[event.key][0]]?.[moves[event.key][1]];
      if (!moves[event.key]) return;
      event.preventDefault();
      if (!next) return;
      current.tabIndex = -1;
      next.tabIndex = 0;
      current = next;
      next.focus({ preventScroll: false });
    });
    grid.addEventListener("click", (event) => {
      const cell = event.target.closest("td");
      if (!cell) return;
      current.tabIndex = -1;
      cell.tabIndex = 0;
      current = cell;
      cell.focus();
    });
  }

  /* All tensors: only the rows in view exist. */
  const view = byId("window");
  if (!view) return;
  const columns = Object.keys(data.tensors);
  const values = columns.map((name) => data.tensors[name]);
  const n = values[0].length;
  const isNumber = values.map((column) => column.some((v) => typeof v === "number"));
  const names = columns.indexOf("name");
  const made = columns.indexOf("made by");
  const texts = Array.from({ length: n }, (_, row) =>
    ["name", "made by", "why", "type", "rows"].map((c) => data.tensors[c]?.[row] ?? "").join(" ").toLowerCase());
  const height = 32;
  const margin = 8;
  const printed = 500;
  let order = Array.from({ length: n }, (_, i) => i);
  let shown = order;
  let sorted = null;
  let from = -1;
  let to = -1;

  const labels = { "made by": "made by", elements: "elements" };
  const heading = (name) => labels[name] ?? name.replace(/^value /, "").replace(/^angle (\S+)-(\S+)$/, "angle $1, $2 (°)").replace(/^norm (\S+)$/, "norm $1");
  const formats = columns.map((name) =>
    name.startsWith("angle ") ? (v) => v.toFixed(2)
      : name.startsWith("norm ") ? (v) => v.toPrecision(5)
        : (v) => v.toLocaleString("en"));
  /* Marks that turn the direction of writing, and control characters, are shown as what they are. */
  const hidden = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
  const visible = (text) =>
    text.replace(hidden, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const cellText = (c, row) => {
    const value = values[c][row];
    if (value === null || value === undefined || value === "") return "";
    return typeof value === "number" ? formats[c](value).replace("-", "−") : visible(value);
  };

  const heads = columns.map((name, c) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (isNumber[c]) cell.className = "num";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading(name);
    button.addEventListener("click", () => sortBy(c));
    cell.append(button);
    return cell;
  });
  byId("columns").append(...heads);
  const body = byId("rows");

  function rowOf(row, index) {
    const line = document.createElement("tr");
    line.setAttribute("aria-rowindex", String(index + 2));
    columns.forEach((_, c) => {
      const cell = document.createElement(c === names ? "th" : "td");
      if (c === names) cell.scope = "row";
      if (isNumber[c]) cell.className = "num";
      cell.textContent = cellText(c, row);
      line.append(cell);
    });
    return line;
  }
  function spacer(count) {
    const line = document.createElement("tr");
    line.className = "spacer";
    line.setAttribute("aria-hidden", "true");
    const cell = document.createElement("td");
    cell.colSpan = columns.length;
    cell.style.height = count * height + "px";
    line.append(cell);
    return line;
  }
  function draw(first, last) {
    from = first;
    to = last;
    if (!shown.length) {
      const line = document.createElement("tr");
      const cell = document.createElement("td");
      cell.colSpan = columns.length;
      cell.className = "nothing";
      cell.textContent = "Nothing found.";
      line.append(cell);
      body.replaceChildren(line);
      return;
    }
    const lines = [];
    if (first > 0) lines.push(spacer(first));
    for (let i = first; i < last; i++) lines.push(rowOf(shown[i], i));
    if (last < shown.length) lines.push(spacer(shown.length - last));
    body.replaceChildren(...lines);
  }
  function update() {
    const top = Math.floor(view.scrollTop / height);
    const count = Math.ceil(Math.max(view.clientHeight, Math.min(innerHeight, 600)) / height);
    const first = Math.max(0, top - margin);
    const last = Math.min(shown.length, top + count + margin);
    if (first !== from || last !== to) draw(first, last);
  }
  function select() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = byId("made")?.value ?? "";
    shown = order.filter((row) =>
      (!kind || values[made][row] === kind) && words.every((word) => texts[row].includes(word)));
    const count = (k) => k.toLocaleString("en");
    byId("found").textContent = shown.length === n
      ? `${count(n)} tensor${n === 1 ? "" : "s"}` : `${count(shown.length)} of ${count(n)} tensors`;
    view.firstElementChild.setAttribute("aria-rowcount", String(shown.length + 1));
    view.scrollTop = 0;
    from = -1;
    update();
  }
  const collator = new Intl.Collator("en", { numeric: true });
  function sortBy(c) {
    const down = sorted?.column === c ? !sorted.down : isNumber[c];
    sorted = { column: c, down };
    const sign = down ? -1 : 1;
    const missing = (v) => v === null || v === undefined || v === "";
    order = Array.from({ length: n }, (_, i) => i).sort((p, q) => {
      const [x, y] = [values[c][p], values[c][q]];
      if (missing(x) || missing(y)) return missing(x) - missing(y) || p - q;
      return sign * (typeof x === "number" ? x - y : collator.compare(x, y)) || p - q;
    });
    heads.forEach((cell, i) => {
      if (i === c) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    select();
  }
  view.addEventListener("scroll", update, { passive: true });
  addEventListener("resize", update);
  byId("search").addEventListener("input", select);
  byId("made")?.addEventListener("change", select);
  byId("save-tensors").addEventListener("click", () =>
    save(fileName + "-tensors.csv", "text/csv",
      csv([columns, ...shown.map((row) => columns.map((_, c) => values[c][row]))])));
  addEventListener("beforeprint", () => {
    draw(0, Math.min(shown.length, printed));
    all(".spacer", body).forEach((line) => line.remove());
    if (shown.length > printed) {
      const line = document.createElement("tr");
      const cell = document.createElement("td");
      cell.colSpan = columns.length;
      cell.textContent = `and ${shown.length - printed} more, in the page's data`;
      line.append(cell);
      body.append(line);
    }
  });
  addEventListener("afterprint", () => { from = -1; update(); });
  select();
})();
