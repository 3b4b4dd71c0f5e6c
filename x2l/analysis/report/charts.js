"use strict";
// The charts: drawn at the width there is, from the script element `chart-data`. A mark is explained where the pointer
// is near it, where it is tapped, and where the arrow keys lead to it. Whatever is shown is set as text.
(() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  if (!figures.length) return;
  const SVG = document.querySelector("svg").namespaceURI; // of the key of stages, which every report has
  const NEAR = { mouse: 14, touch: 26, pen: 26 }; // pixels between pointer and mark
  const DRAWN = new Set(["svg", "g", "path", "line", "text", "circle"]);
  const polygon = (corners, inner = 1) =>
    `${[...Array(corners * 2).keys()].map((n) => {
      const far = n % 2 ? inner : 1, angle = (Math.PI * n) / corners;
      return `${n ? "L" : "M"}${(far * Math.sin(angle)).toFixed(3)} ${(-far * Math.cos(angle)).toFixed(3)}`;
    }).join("")}Z`;
  const MARKERS = { // names are matplotlib's, which the other figures of x2l use; about 1 around the middle
    "o": "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z",
    "s": "M-.9-.9H.9V.9H-.9Z",
    "^": "M0-1.1L1.1 .9H-1.1Z",
    "v": "M0 1.1L1.1-.9H-1.1Z",
    "<": "M-1.1 0L.9-1.1V1.1Z",
    ">": "M1.1 0L-.9-1.1V1.1Z",
    "D": "M0-1.25L1.25 0L0 1.25L-1.25 0Z",
    "d": "M0-1.4L.85 0L0 1.4L-.85 0Z",
    "P": "M-.4-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "X": "M-1.1-.55L-.55-1.1L0-.55L.55-1.1L1.1-.55L.55 0L1.1 .55L.55 1.1L0 .55L-.55 1.1L-1.1 .55L-.55 0Z",
    "*": polygon(5, 0.42),
  };

  const make = (name, attributes = {}, ...children) => {
    const node = DRAWN.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const painted = (colour) => (colour ? `--c:${colour}` : null);
  const mark = (look, x, y, colour, hollow = false, more = 1) =>
    make("path", { class: `dot${hollow ? " hollow" : ""}${colour ? " of" : ""}`, style: painted(colour), d: MARKERS[look.marker], transform: `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${look.size * more})` });

  // What is switched off, and the figures to draw again, by group.
  const groups = data.groups.map((group) => ({ ...group, off: { compressors: new Set(), looks: new Set(), front: false, intervals: false }, figures: [] }));
  const shown = (group, cell) => !group.off.looks.has(cell.look) && !(cell.compressor !== null && group.off.compressors.has(cell.compressor));

  // --- the legend ----------------------------------------------------------------------------------------------------
  const swatch = (...parts) => make("svg", { viewBox: "-14 -7 28 14", "aria-hidden": "true" }, ...parts);
  const stroke = (kind, of = null) => make("path", { class: `${kind}${of ? " of" : ""}`, style: painted(of), d: "M-13 0H13" });
  const legend = (group) => {
    const box = make("div", { class: "switches", role: "group", "aria-label": "Legend" });
    const redraw = () => { for (const draw of group.figures) draw(); };
    const add = (words, picture, on, toggle, alone) => {
      const button = make("button", { type: "button", title: alone ? "off and on; twice, or with Shift: this one alone" : "off and on" }, picture, words);
      const only = () => { alone(); redraw(); };
      button.addEventListener("click", (event) => { if (event.shiftKey && alone) return only(); toggle(); redraw(); });
      if (alone) button.addEventListener("dblclick", (event) => { if (!event.shiftKey) only(); });
      box.append(button);
      return () => button.setAttribute("aria-pressed", String(on()));
    };
    const of = (kind, count) => (index) => {
      const off = group.off[kind], others = [...Array(count).keys()].filter((other) => other !== index);
      const isAlone = () => !off.has(index) && others.every((other) => off.has(other));
      return [
        () => !off.has(index),
        () => (off.has(index) ? off.delete(index) : off.add(index)),
        count < 2 ? null : () => { const back = isAlone(); off.clear(); if (!back) for (const other of others) off.add(other); },
      ];
    };
    const compressor = of("compressors", group.compressors.length), look = of("looks", group.looks.length);
    const says = [
      ...group.compressors.map((one, index) => add(one.name, swatch(stroke("line", one.colour)), ...compressor(index))),
      ...group.looks.map((one, index) => add(`${one.name}${one.bound ? " (bound)" : ""}`, swatch(...(one.bound ? [stroke("line dashed", one.colour)] : []), mark(one, 0, 0, one.colour)), ...look(index))),
      add("Pareto front", swatch(stroke("front")), () => !group.off.front, () => { group.off.front = !group.off.front; }),
      add("intervals", swatch(make("path", { class: "interval-of", d: "M0-7V7M-3-7H3M-3 7H3" })), () => !group.off.intervals, () => { group.off.intervals = !group.off.intervals; }),
    ];
    const all = make("button", { type: "button", class: "all" }, "show all");
    all.addEventListener("click", () => {
      group.off.compressors.clear();
      group.off.looks.clear();
      group.off.front = group.off.intervals = false;
      redraw();
    });
    box.append(all);
    return { box, say: () => {
      for (const one of says) one();
      all.hidden = !(group.off.compressors.size || group.off.looks.size || group.off.front || group.off.intervals);
    } };
  };

  // --- one chart -----------------------------------------------------------------------------------------------------
  const start = (figure) => {
    const chart = data.charts[figure.dataset.chart], group = groups[chart.group], cells = group.cells;
    const svg = make("svg", { class: "chart", tabindex: "0", role: "application", "aria-roledescription": "chart", "aria-label": `${figure.dataset.alt} Arrow keys go from cell to cell.` });
    const tip = make("div", { class: "tip", role: "status", hidden: "" });
    const says = legend(group);
    const plot = make("div", { class: "plot" }, svg, tip);
    figure.prepend(says.box, plot);
    let width = 0, places = [], active = null, pinned = false;

    const scales = () => {
      const height = Math.round(Math.min(420, Math.max(270, width * 0.6)));
      const left = 44, right = width - 10, top = 12, bottom = height - 44;
      const on = chart.log ? Math.log : (value) => value;
      const across = (value) => left + ((right - left) * (on(value) - on(chart.low))) / (on(chart.high) - on(chart.low));
      const [low, high] = group.accuracies;
      return { height, left, right, top, bottom, across, up: (value) => bottom - ((bottom - top) * (value - low)) / (high - low) };
    };
    const axes = ({ height, left, right, top, bottom, across, up }) => {
      const [low, high] = group.accuracies, step = high - low > 70 ? 20 : 10, parts = [];
      for (let value = Math.ceil(low / step) * step; value <= Math.min(100, high); value += step) {
        parts.push(make("line", { class: "grid", x1: left, x2: right, y1: up(value), y2: up(value) }));
        parts.push(make("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end" }, String(value)));
      }
      for (const [value, words] of chart.ticks) {
        parts.push(make("line", { class: "grid", x1: across(value), x2: across(value), y1: top, y2: bottom }));
        parts.push(make("text", { x: across(value), y: bottom + 16, "text-anchor": "middle" }, words));
      }
      parts.push(make("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }));
      parts.push(make("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, chart.label));
      parts.push(make("text", { transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "accuracy (%)"));
      for (const value of group.chance) parts.push(make("line", { class: "chance", x1: left, x2: right, y1: up(value), y2: up(value) }));
      return parts;
    };
    const front = ({ right }) => {
      if (group.off.front || !chart.front.length) return [];
      const steps = chart.front.map((index, n) => { const [x, y] = places[index]; return n ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `M${x.toFixed(1)} ${y.toFixed(1)}`; });
      return [make("path", { class: "front", d: `${steps.join("")}H${right}` })];
    };
    const lines = (visible) => {
      const rows = new Map();
      for (const index of visible) if (cells[index].line !== null) rows.set(cells[index].line, [...(rows.get(cells[index].line) ?? []), index]);
      if (rows.size > data.most.lines) return [];
      const drawn = [...rows.values()].filter((row) => row.length > 1).map((row) => [row, `M${row.map((index) => places[index].map((value) => value.toFixed(1)).join(" ")).join("L")}`]);
      return drawn.map(([row, d], n) => { // of equal ones the first is the widest, so that each is seen
        const below = drawn.slice(n + 1).filter(([, other]) => other === d).length;
        const of = cells[row[0]].colour, dashed = row.every((index) => cells[index].bound);
        const picked = active !== null && cells[active].line === cells[row[0]].line;
        return make("path", { class: `line${dashed ? " dashed" : ""}${of ? " of" : ""}${picked ? " picked" : ""}`, style: `${painted(of) ?? ""};stroke-width:${1.4 + 2.2 * below + (picked ? 1.2 : 0)}`, d });
      });
    };
    const intervals = (visible, { across, up }) => {
      if (group.off.intervals) return [];
      const best = new Set(chart.front);
      return visible.filter((index) => visible.length <= data.most.intervals || best.has(index)).map((index) => {
        const [, low, high] = cells[index].accuracy, x = across(chart.at[index]), of = cells[index].colour;
        return make("path", { class: `interval-of${of ? " of" : ""}`, style: painted(of), d: `M${x.toFixed(1)} ${up(low).toFixed(1)}V${up(high).toFixed(1)}M${(x - 2.5).toFixed(1)} ${up(low).toFixed(1)}h5M${(x - 2.5).toFixed(1)} ${up(high).toFixed(1)}h5` });
      });
    };
    const draw = () => {
      says.say();
      const scale = scales(), visible = [...cells.keys()].filter((index) => shown(group, cells[index]));
      places = cells.map((cell, index) => [scale.across(chart.at[index]), scale.up(cell.accuracy[0])]);
      if (active !== null && !visible.includes(active)) close();
      svg.setAttribute("viewBox", `0 0 ${width} ${scale.height}`);
      svg.setAttribute("height", scale.height);
      svg.replaceChildren(...axes(scale), ...front(scale), ...lines(visible), ...intervals(visible, scale));
      for (const index of visible) {
        const cell = cells[index], [x, y] = places[index];
        const node = mark(group.looks[cell.look], x, y, cell.colour, cell.hollow);
        node.dataset.cell = index;
        svg.append(node);
      }
      chart.front.forEach((index, n) => {
        if (!visible.includes(index) || group.off.front) return;
        const [x, y] = places[index];
        svg.append(make("text", { class: "number", x: x - 7, y: y - 7, "text-anchor": "end" }, String(n + 1)));
      });
      if (active !== null) svg.append(make("circle", { class: "ring", cx: places[active][0], cy: places[active][1], r: 10 }));
      if (!visible.length) svg.append(make("text", { x: width / 2, y: scale.height / 2, "text-anchor": "middle" }, "every line is switched off"));
    };

    // --- what is said of a cell ---
    const explain = (index) => {
      const cell = cells[index], [x, y] = places[index];
      const here = [...cells.keys()].filter((other) => other !== index && shown(group, cells[other]) && Math.hypot(places[other][0] - x, places[other][1] - y) < 3);
      const facts = cell.facts.flatMap(([what, much]) => [make("dt", {}, what), make("dd", {}, much)]);
      tip.replaceChildren(
        make("strong", {}, `${cell.name}${cell.bound ? " (bound)" : ""}`),
        make("dl", {}, ...facts),
        ...(cell.command === null ? [] : [make("code", {}, group.commands[cell.command])]),
        ...(here.length ? [make("small", {}, `at the same place: ${here.slice(0, 4).map((other) => cells[other].name).join(", ")}${here.length > 4 ? ` and ${here.length - 4} more` : ""}`)] : []));
      tip.hidden = false;
      const wide = tip.offsetWidth, tall = tip.offsetHeight;
      tip.style.left = `${Math.max(0, Math.min(width - wide, x - wide / 2))}px`;
      tip.style.top = `${y - tall - 16 >= 0 ? y - tall - 16 : y + 16}px`;
    };
    const open = (index, pin = pinned) => {
      pinned = pin;
      tip.classList.toggle("pinned", pinned);
      if (index === active) return;
      active = index;
      draw();
      explain(index);
    };
    const close = () => {
      active = null;
      pinned = false;
      tip.hidden = true;
      tip.classList.remove("pinned");
    };
    const nearest = (event) => {
      const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      const far = (index) => Math.hypot(places[index][0] - x, places[index][1] - y);
      const visible = [...cells.keys()].filter((index) => shown(group, cells[index]));
      const best = visible.reduce((a, b) => (a === null || far(b) < far(a) ? b : a), null);
      return best !== null && far(best) <= (NEAR[event.pointerType] ?? NEAR.mouse) ? best : null;
    };
    svg.addEventListener("pointermove", (event) => {
      if (pinned || event.pointerType === "touch") return;
      const index = nearest(event);
      if (index !== null) open(index);
      else if (active !== null) { close(); draw(); }
    });
    plot.addEventListener("pointerleave", () => { if (!pinned && active !== null) { close(); draw(); } });
    svg.addEventListener("click", (event) => {
      const index = nearest(event);
      if (index === null) { close(); draw(); } else open(index, true);
    });
    svg.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") { close(); draw(); return; }
      const way = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 1, ArrowDown: -1, Home: 0, End: 0 }[event.key];
      if (way === undefined) return;
      event.preventDefault();
      const by = ["ArrowUp", "ArrowDown"].includes(event.key) ? (index) => [cells[index].accuracy[0], chart.at[index]] : (index) => [chart.at[index], cells[index].accuracy[0]];
      const order = [...cells.keys()].filter((index) => shown(group, cells[index])).sort((a, b) => by(a)[0] - by(b)[0] || by(a)[1] - by(b)[1] || a - b);
      if (!order.length) return;
      const place = order.indexOf(active);
      const next = event.key === "End" ? order.length - 1 : event.key === "Home" || place < 0 ? 0 : Math.min(order.length - 1, Math.max(0, place + way));
      open(order[next], true);
    });
    svg.addEventListener("blur", (event) => { if (!tip.contains(event.relatedTarget) && !tip.matches(":hover")) { close(); draw(); } });
    group.figures.push(draw);
    new ResizeObserver(() => {
      const wide = Math.floor(plot.clientWidth);
      if (!wide || wide === width) return;
      width = wide;
      close();
      draw();
    }).observe(plot);
  };
  figures.forEach(start);
})();
