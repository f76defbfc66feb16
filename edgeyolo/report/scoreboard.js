(() => {
  "use strict";
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const table = document.getElementById("rows");
  const lines = all("tbody tr", table);
  const search = document.getElementById("search");
  const selects = all("#filter select");
  const boxes = all("#filter input[type=checkbox]");
  const status = document.getElementById("status");
  let sorted = "";

  function fits(element, kinds, words) {
    const said = element.dataset;
    const text = element.textContent.toLowerCase();
    const own = said.kinds ? said.kinds.split(" ") : [];
    return (
      words.every((word) => text.includes(word)) &&
      selects.every((one) => !one.value || !(one.name in said) || said[one.name] === one.value) &&
      (!own.length || own.some((kind) => kinds.has(kind)))
    );
  }

  function filter() {
    const kinds = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of lines) line.hidden = !fits(line, kinds, words);
    for (const other of all(".runs tbody tr")) other.hidden = !fits(other, kinds, words);
    for (const figure of all(".fig", table)) figure.classList.toggle("off", !kinds.has(figure.dataset.kind));
    const keys = new Set(lines.filter((line) => !line.hidden).map((line) => line.dataset.key));
    for (const svg of all(".chart svg")) redraw(svg, keys, kinds);
    const shown = lines.filter((line) => !line.hidden).length;
    status.textContent = `${shown} of ${lines.length} rows${sorted}`;
  }

  // The front of what is shown: as the page was written with, when that is everything.
  function redraw(svg, keys, kinds) {
    const points = all(".point", svg);
    const hidden = new Set();
    for (const point of points) {
      const isShown = keys.has(point.dataset.key) && kinds.has(point.dataset.kind);
      point.toggleAttribute("hidden", !isShown);
      if (!isShown) hidden.add(point.dataset.key);
    }
    for (const label of all(".label", svg)) label.toggleAttribute("hidden", hidden.has(label.dataset.key));
    const groups = new Map();
    for (const point of points.filter((one) => !one.hasAttribute("hidden"))) {
      const at = { point, x: Number(point.dataset.x), y: Number(point.dataset.y) };
      groups.set(point.dataset.group, [...(groups.get(point.dataset.group) ?? []), at]);
    }
    const fronts = new Map(all(".front", svg).map((path) => [path.dataset.group, path]));
    for (const path of fronts.values()) path.toggleAttribute("hidden", true);
    for (const [group, members] of groups) {
      const beaten = (one) =>
        members.some((other) => other.x <= one.x && other.y <= one.y && (other.x < one.x || other.y < one.y));
      const front = members.filter((one) => !beaten(one)).sort((a, b) => a.x - b.x);
      for (const one of members) one.point.classList.toggle("on-front", front.includes(one));
      const path = fronts.get(group);
      if (!path || front.length < 2) continue;
      const [first, ...rest] = front.map(({ point }) => point.dataset);
      path.setAttribute("d", `M${first.x},${first.y}${rest.map(({ x, y }) => `H${x}V${y}`).join("")}`);
      path.toggleAttribute("hidden", false);
    }
  }

  function sort(button) {
    const heading = button.closest("th");
    const column = [...heading.parentNode.children].indexOf(heading);
    const isRising = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", isRising ? "ascending" : "descending");
    const isNumber = !heading.classList.contains("text");
    const value = (line) => {
      const cell = line.children[column];
      const text = cell.dataset.value ?? (isNumber ? "" : cell.textContent.trim());
      return isNumber ? (text === "" ? null : Number(text)) : text;
    };
    const compare = (a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      const order = isNumber ? left - right : left.localeCompare(right, undefined, { numeric: true });
      return isRising ? order : -order;
    };
    lines.sort(compare);
    table.tBodies[0].append(...lines);
    sorted = `, by ${button.firstChild.textContent}, ${isRising ? "ascending" : "descending"}`;
    filter();
  }

  function choose(unit) {
    for (const chart of all(".chart")) chart.hidden = chart.dataset.unit !== unit;
  }

  for (const button of all("thead button", table)) button.addEventListener("click", () => sort(button));
  for (const input of [search, ...selects, ...boxes]) input.addEventListener("input", filter);
  const units = all("input[name=unit]");
  for (const unit of units) unit.addEventListener("change", () => choose(unit.value));
  if (units.length) choose(units.find((unit) => unit.checked).value);
  filter();
})();
