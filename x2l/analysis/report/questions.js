"use strict";
// The question browser. Data come from the script element `question-data`; details and pictures from it too, or from
// the server that made the page. Whatever is shown is set as text: nothing in the data is read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("question-data").textContent);
  const at = (id) => document.getElementById(id);
  const cells = data.cells;
  const SVG = document.querySelector("svg").namespaceURI; // of the key of stages, which every report has
  const MARKS = { 1: ["✓", "right"], 0: ["✗", "wrong"], "?": ["?", "unparsed"], n: ["·", "answer not known"], "-": ["–", "not answered"] };
  const state = { open: null, chosen: data.start[0], other: data.start[1], all: false };
  let shown = [];

  const make = (name, attributes = {}, ...children) => {
    const svg = ["svg", "rect"].includes(name);
    const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const mark = (letter, words = false) =>
    make("span", { class: `mark m${{ 1: "r", 0: "w" }[letter] ?? "u"}`, title: MARKS[letter][1] }, words ? `${MARKS[letter][0]} ${MARKS[letter][1]}` : MARKS[letter][0]);
  const clock = (seconds) => {
    const whole = Math.floor(seconds), two = (value) => String(value).padStart(2, "0");
    const hours = Math.floor(whole / 3600);
    return `${hours ? `${hours}:${two(Math.floor(whole / 60) % 60)}` : Math.floor(whole / 60)}:${two(whole % 60)}`;
  };
  const share = (question) => {
    const known = [...question.marks].filter((letter) => "10?".includes(letter));
    return [known.filter((letter) => letter === "1").length, known.length];
  };
  const details = async (number) =>
    data.served ? (await fetch(`question?number=${number}`)).json() : data.details[number];
  const picture = (name) => (data.served ? `thumbnail?name=${name}` : data.pictures[name] && `data:image/jpeg;base64,${data.pictures[name]}`);

  // --- filters -------------------------------------------------------------------------------------------------------
  const FILTERS = {
    all: ["all", () => true],
    right: ["first cell right", (a) => a === "1"],
    wrong: ["first cell wrong or unparsed", (a) => a === "0" || a === "?"],
    unparsed: ["first cell unparsed", (a) => a === "?"],
    differ: ["the two cells differ", (a, b) => a !== b && (a === "1" || b === "1") && a !== "-" && b !== "-"],
    gained: ["first right, second wrong", (a, b) => a === "1" && (b === "0" || b === "?")],
    lost: ["first wrong, second right", (a, b) => (a === "0" || a === "?") && b === "1"],
    nobody: ["right in no cell", (a, b, q) => share(q)[0] === 0],
    everybody: ["right in every cell", (a, b, q) => share(q)[0] === share(q)[1] && share(q)[1] > 0],
  };
  const order = (question) => { const [right, of] = share(question); return of ? right / of : 2; };
  const SORTS = {
    asked: ["as asked", (a, b) => a.number - b.number],
    hard: ["fewest cells right first", (a, b) => order(a) - order(b) || a.number - b.number],
    easy: ["most cells right first", (a, b) => order(b) - order(a) || a.number - b.number],
    task: ["by task", (a, b) => a.tasks.join().localeCompare(b.tasks.join()) || a.number - b.number],
  };
  const fill = (select, entries) => select.replaceChildren(...entries.map(([value, words]) => make("option", { value }, words)));
  const named = cells.map((cell, index) => [index, `${cell.name}${cell.bound ? " (bound)" : ""}${cell.accuracy === null ? "" : `, ${cell.accuracy} %`}`]);
  fill(at("q-first"), named);
  fill(at("q-second"), named);
  fill(at("q-task"), [["", "all"], ...[...new Set(data.questions.flatMap((q) => q.tasks))].sort().map((task) => [task, task])]);
  fill(at("q-which"), Object.entries(FILTERS).map(([key, [words]]) => [key, words]));
  fill(at("q-sort"), Object.entries(SORTS).map(([key, [words]]) => [key, words]));
  at("q-first").value = state.chosen;
  at("q-second").value = state.other;

  const entry = (question) => {
    const [right, of] = share(question);
    const button = make("button", { type: "button", "data-number": question.number },
      make("span", { class: "marks" }, mark(question.marks[state.chosen]), mark(question.marks[state.other])),
      make("span", { class: "text" }, question.text),
      make("small", {}, `${question.tasks.join(", ")} · ${question.video} · ${right} of ${of} cells right`));
    button.addEventListener("click", () => open(question, true));
    return make("li", {}, button);
  };
  const list = () => {
    state.chosen = Number(at("q-first").value);
    state.other = Number(at("q-second").value);
    const task = at("q-task").value, keep = FILTERS[at("q-which").value][1];
    const words = at("q-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = data.questions.filter((q) => {
      const text = `${q.text} ${q.id} ${q.video}`.toLowerCase();
      return (!task || q.tasks.includes(task)) && keep(q.marks[state.chosen], q.marks[state.other], q) && words.every((word) => text.includes(word));
    }).sort(SORTS[at("q-sort").value][1]);
    at("q-list").replaceChildren(...shown.map(entry));
    at("q-count").textContent = `${shown.length} of ${data.questions.length} questions`;
    current();
  };
  const current = () => {
    for (const button of at("q-list").querySelectorAll("button")) {
      const is = state.open !== null && Number(button.dataset.number) === state.open.number;
      button.setAttribute("aria-current", is ? "true" : "false");
      if (is) at("q-list").scrollTop = button.offsetTop - at("q-list").offsetTop - 60;
    }
  };

  // --- one question --------------------------------------------------------------------------------------------------
  const strip = (answer, layout, ratings) => {
    const values = ratings[answer.rating], known = values.filter((value) => value !== null);
    const low = Math.min(0, ...known), high = Math.max(0, ...known), last = answer.names.length - 1;
    const levels = [...answer.levels].map(Number), truth = new Set(layout.truth ?? []);
    const svg = make("svg", { class: "strip", viewBox: `0 0 ${levels.length} 12`, preserveAspectRatio: "none", "aria-hidden": "true" });
    levels.forEach((level, chunk) => {
      const value = values[chunk], tall = value === null || high === low ? 0 : (8 * (value - low)) / (high - low);
      svg.append(make("rect", { class: level < last ? "fine" : "coarse", x: chunk + 0.05, y: 0, width: 0.9, height: 9 }));
      if (tall) svg.append(make("rect", { class: level < last ? "rated taken" : "rated", x: chunk + 0.2, y: 9 - tall, width: 0.6, height: tall }));
      if (truth.has(chunk)) svg.append(make("rect", { class: "truth", x: chunk + 0.05, y: 10, width: 0.9, height: 2 }));
    });
    return svg;
  };
  const told = (answer) => {
    if (cells[answer.cell].baseline) return `all chunks at ${answer.names[Number(answer.levels[0])]}`;
    const last = answer.names.length - 1, taken = [...answer.levels].map((level, chunk) => [Number(level), chunk]).filter(([level]) => level < last).map(([, chunk]) => chunk);
    const where = taken.length > 8 ? `${taken.length} of ${answer.levels.length} chunks` : taken.length ? `chunk${taken.length > 1 ? "s" : ""} ${taken.map((chunk) => chunk + 1).join(", ")}` : "none";
    return `${where} re-loaded${answer.recall === null || answer.recall === undefined ? "" : `, recall ${(100 * answer.recall).toFixed(0)} %`}`;
  };
  const chunks = (answer, layout, ratings) => {
    const values = ratings[answer.rating], known = values.filter((value) => value !== null);
    const low = Math.min(0, ...known), high = Math.max(0, ...known), last = answer.names.length - 1;
    const truth = new Set(layout.truth ?? []), matter = new Set(layout.matter);
    const every = layout.seconds.map((_, chunk) => chunk);
    const few = every.filter((chunk) => matter.has(chunk));
    const box = make("ol", { class: "chunks" });
    for (const chunk of state.all ? every : few) {
      const [start, end] = layout.seconds[chunk], taken = Number(answer.levels[chunk]) < last;
      const source = layout.pictures[chunk] === null ? null : picture(layout.pictures[chunk]);
      const value = values[chunk], tall = value === null || high === low ? 0 : (100 * (value - low)) / (high - low);
      const says = [`chunk ${chunk + 1}, ${clock(start)} to ${clock(end)}`, answer.names[Number(answer.levels[chunk])], taken ? "re-loaded" : null, truth.has(chunk) ? "holds the answer" : null, value === null ? null : `relevance ${Number(value.toPrecision(3))}`].filter(Boolean).join("; ");
      box.append(make("li", { class: `${taken ? "taken" : ""} ${truth.has(chunk) ? "holds" : ""}`, title: says },
        source ? make("img", { src: source, alt: says, loading: "lazy" }) : make("span", { class: "blank" }, String(chunk + 1)),
        make("span", { class: "bar-of" }, make("span", { style: `width:${tall.toFixed(1)}%` })),
        make("small", {}, `${layout.about ? "≈" : ""}${clock(start)}`, taken ? " ■" : "", truth.has(chunk) ? " ▲" : "")));
    }
    if (few.length === every.length) return [box];
    const button = make("button", { type: "button", class: "more" }, state.all ? "Show those that matter" : `Show all ${every.length} chunks`);
    button.addEventListener("click", () => { state.all = !state.all; draw(); });
    return [box, button];
  };
  let last = null;
  const draw = () => {
    const [question, one] = last, place = at("q-one");
    const answer = one.answers.find((each) => each.cell === state.chosen) ?? one.answers[0];
    const layout = one.layouts[answer.layout];
    const options = one.options.map(([letter, text]) => make("li", { class: letter === one.answer ? "answer" : null }, `${letter}. ${text}${letter === one.answer ? " (the answer)" : ""}`));
    const tags = Object.entries(one.tags).map(([name, value]) => `${name} ${value}`);
    const link = make("a", { href: `#question=${encodeURIComponent(question.id)}` }, "link to this question");
    const rows = one.answers.map((each) => {
      const cell = cells[each.cell], button = make("button", { type: "button" }, `${cell.name}${cell.bound ? " (bound)" : ""}`);
      button.addEventListener("click", () => { at("q-first").value = each.cell; list(); draw(); });
      const guess = each.guess ? ` (guessed ${each.guess})` : "";
      return make("tr", { "aria-current": each.cell === answer.cell ? "true" : null, "data-cell": each.cell },
        make("td", {}, mark(question.marks[each.cell], true)),
        make("th", { scope: "row" }, button),
        make("td", { class: "said" }, `${each.prediction || "(empty)"}${guess}`),
        make("td", {}, strip(each, one.layouts[each.layout], one.ratings), make("small", {}, told(each))),
        make("td", { class: "n" }, `${(100 * each.kv).toFixed(1)}`));
    });
    place.replaceChildren(
      make("h3", {}, question.text),
      ...(options.length ? [make("ul", { class: "options" }, ...options)] : [make("p", {}, one.answer === null ? "The set keeps the answer back." : `Answer: ${one.answer}`)]),
      make("p", { class: "facts" }, [question.set, question.tasks.join(", "), question.video, ...tags].join(" · "), " · ", link),
      make("p", {}, make("strong", {}, cells[answer.cell].name), `: ${layout.frames} frames in ${layout.seconds.length} chunks; ${told(answer)}`),
      ...chunks(answer, layout, one.ratings),
      make("div", { class: "box", tabindex: "0", role: "region", "aria-label": "Answers of all cells" },
        make("table", {}, make("thead", {}, make("tr", {}, ...["", "cell", "said", "chunks", "KV %"].map((words) => make("th", { scope: "col" }, words)))), make("tbody", {}, ...rows))));
  };
  const open = async (question, jump = false) => {
    state.open = question;
    state.all = false;
    current();
    const one = await details(question.number);
    if (state.open !== question) return;
    last = [question, one];
    draw();
    if (jump) history.replaceState(null, "", `#question=${encodeURIComponent(question.id)}`);
    if (jump && matchMedia("(max-width: 50rem)").matches) at("q-one").scrollIntoView();
  };
  const step = (by) => {
    const place = shown.findIndex((q) => state.open !== null && q.number === state.open.number);
    const next = shown[place < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, place + by))];
    if (next) open(next).then(() => history.replaceState(null, "", `#question=${encodeURIComponent(next.id)}`));
  };
  const follow = () => {
    const match = location.hash.match(/^#question=(.*)$/);
    const question = match && data.questions.find((q) => q.id === decodeURIComponent(match[1]));
    if (!question) return false;
    if (!shown.includes(question)) {
      for (const id of ["q-task", "q-text"]) at(id).value = "";
      at("q-which").value = "all";
      list();
    }
    open(question);
    at("questions").scrollIntoView();
    return true;
  };
  addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing) document.activeElement.blur();
    if (typing) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "/") { event.preventDefault(); at("questions").scrollIntoView(); at("q-text").focus(); }
  });
  for (const id of ["q-first", "q-second", "q-task", "q-which", "q-sort"]) at(id).addEventListener("change", () => { list(); if (last) draw(); });
  at("q-text").addEventListener("input", list);
  addEventListener("hashchange", follow);
  list();
  if (!follow() && shown.length) open(shown[0]);
})();
