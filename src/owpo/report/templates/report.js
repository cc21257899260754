"use strict";
// What moves on the page: the theme, the KL weight, and the token viewer. Text of a model is only ever set as
// textContent.

const data = JSON.parse(document.getElementById("data").textContent);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------- theme

const theme = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme ??
  (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function showTheme() { theme.textContent = isDark() ? "Light" : "Dark"; }
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
theme.hidden = false;
showTheme();

// ---------------------------------------------------------------- what a KL penalty would turn

// Tokens with ratio = delta / |A| above 1 / beta: each number stands for `each` tokens.
function flippedShare(stage, beta) {
  let low = 0, high = stage.ratios.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (beta * stage.ratios[middle] > 1) high = middle; else low = middle + 1;
  }
  return (stage.ratios.length - low) * stage.each / stage.total;
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

for (const section of document.querySelectorAll(".one-way")) {
  const run = data.runs[Number(section.dataset.run)];
  const slider = section.querySelector("input"), output = section.querySelector("output");
  const rows = run.flips.map((stage) => {
    const share = element("td");
    section.querySelector(".flips tbody").append(
      element("tr", {}, element("td", { textContent: stage.stage }), element("td", { textContent: stage.total }), share));
    return share;
  });
  const lines = [...section.querySelectorAll("svg")].map(penaltyLine).filter(Boolean);

  function move() {
    const beta = 10 ** Number(slider.value);
    const total = run.flips.reduce((sum, stage) => sum + stage.total, 0);
    const flipped = run.flips.reduce((sum, stage) => sum + stage.total * flippedShare(stage, beta), 0);
    output.textContent = `β = ${Number(beta.toPrecision(2))}: ${percent(flipped / total)} of ${total} recorded tokens turned`;
    slider.setAttribute("aria-valuetext", output.textContent);
    run.flips.forEach((stage, number) => { rows[number].textContent = percent(flippedShare(stage, beta)); });
    for (const draw of lines) draw(beta, run.curve);
  }
  slider.addEventListener("input", move);
  section.querySelector(".beta").hidden = false;
  move();
}

// The upper axes' rectangle is the first path in their group; the line is drawn in its coordinates.
function penaltyLine(svg) {
  const frame = svg.querySelector('[id$="one-way-axes"] path');
  if (!frame) return null;
  const numbers = frame.getAttribute("d").match(/-?[\d.]+/g).map(Number);
  const xs = numbers.filter((_, place) => place % 2 === 0), ys = numbers.filter((_, place) => place % 2 === 1);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("class", "penalty");
  frame.closest('[id$="one-way-axes"]').append(line);
  return (beta, curve) => {
    const place = (delta, value) => [
      left + (delta + curve.edge) / (2 * curve.edge) * (right - left),
      bottom - (value - curve.low) / (curve.high - curve.low) * (bottom - top),
    ];
    const slope = beta / curve.size;  // of the coefficient 1 - slope * delta; cut where it leaves the frame
    const from = Math.max(-curve.edge, (1 - curve.high) / slope), to = Math.min(curve.edge, (1 - curve.low) / slope);
    const points = [from, to].map((delta) => place(delta, 1 - slope * delta).map((at) => at.toFixed(2)).join(" "));
    line.setAttribute("d", `M ${points.join(" L ")}`);
  };
}

// ---------------------------------------------------------------- tokens

const viewer = document.getElementById("viewer");
if (viewer) startViewer();

function startViewer() {
  const filters = document.getElementById("filters").elements;
  const state = { at: 0, token: 0, colour: "weight", side: false, table: false, found: [] };
  const responses = document.getElementById("responses"), detail = document.getElementById("token");
  const verdictOf = (record) => record.verdict === "correct" ? "right" : "wrong";

  function fill(select, values, told, all) {
    const before = select.value;
    select.replaceChildren(
      ...(all ? [element("option", { value: "", textContent: all })] : []),
      ...values.map((value) => element("option", { value, textContent: told(value) })));
    if ([...select.options].some((option) => option.value === before)) select.value = before;
  }
  const distinct = (values) => [...new Set(values)];

  function records() { return data.runs[Number(filters.run.value) || 0].records; }

  function setUp() {
    fill(filters.run, data.runs.map((_, number) => String(number)), (number) => data.runs[Number(number)].name);
    document.querySelector(".run-filter").hidden = data.runs.length < 2;
    fill(filters.kind, distinct(records().map((r) => r.kind)), (kind) => kind === "training" ? "trained on" : "watched", "all");
    fill(filters.stage, distinct(records().map((r) => String(r.stage))), String, "all");
    fill(filters.verdict, ["right", "wrong"], String, "all");
    fill(filters.problem, distinct(records().map((r) => r.problem)), String, "all");
    filters.kind.value = records().some((r) => r.kind === "training") ? "training" : "";
    filters.stage.value = String(records().at(-1)?.stage ?? "");  // where the run came to
    steps();
  }
  function steps() {
    const stage = filters.stage.value;
    fill(filters.step, distinct(records().filter((r) => !stage || String(r.stage) === stage).map((r) => String(r.step))), String, "all");
  }

  function find() {
    const is = (name, value) => !filters[name].value || filters[name].value === String(value);
    state.found = records().filter((r) => is("kind", r.kind) && is("stage", r.stage) && is("step", r.step) &&
      is("verdict", verdictOf(r)) && is("problem", r.problem));
    state.at = 0;
    show();
  }

  // What is laid side by side: the record's problem as it was answered at the start of the run and at the end of each stage.
  function throughStages(record) {
    const same = records().filter((r) => r.kind === "watched" && r.problem === record.problem);
    return same.filter((r, number) => number === 0 || number === same.length - 1 || same[number + 1].stage !== r.stage);
  }

  function show() {
    state.token = 0;
    const record = state.found[state.at];
    document.getElementById("place").textContent = record ? `${state.at + 1} of ${state.found.length}` : "no response";
    const columns = !record ? [] : state.side ? throughStages(record) : [record];
    responses.replaceChildren(...columns.map(response));
    if (record && state.side && !columns.length) {
      responses.append(element("p", { textContent: "This problem is not watched: choose “watched” responses to follow one through the stages." }));
    }
    legend();
    const first = responses.querySelector(".t");
    if (first) first.tabIndex = 0;
    detail.replaceChildren(element("p", { textContent: record ? "Point at a token, or tab to the response and use the arrow keys." : "No response fits these filters." }));
  }

  function response(record) {
    const right = record.verdict === "correct";
    const verdict = element("dd", { className: `verdict ${right ? "correct" : "other"}`, textContent: right ? "✓ correct" : `✗ ${record.verdict}` });
    const facts = [
      ["verdict", verdict], ["prompt", record.prompt], ["expected", record.answer], ["read", record.read ?? "nothing"],
      ["advantage", `${record.advantage}${record.kind === "watched" ? " (the verdict's direction)" : ""}`],
      ["reference", record.reference ?? "none"],
    ];
    const list = element("dl");
    for (const [name, value] of facts) {
      list.append(element("dt", { textContent: name }), value instanceof Node ? value : element("dd", { textContent: value }));
    }
    const where = `stage ${record.stage}, ${record.kind === "watched" ? (record.step === 0 ? "before its first step" : `after step ${record.step}`) : `trained on in step ${record.step}`}`;
    return element("article", { className: "response" },
      element("h3", { textContent: `${record.problem} · ${where}` }), list,
      state.table ? tokenTable(record) : tokens(record));
  }

  function tokens(record) {
    const box = element("div", { className: "tokens", role: "group" });
    box.setAttribute("aria-label", `response of ${record.pieces.length} tokens`);
    record.pieces.forEach((piece, number) => {
      const look = colour(record, number);
      const token = element("span", { className: `t ${look}`, textContent: visible(piece), tabIndex: -1 });
      token.dataset.number = number;
      token.record = record;
      box.append(token);
      if (piece.endsWith("\n")) box.append(element("br"));
    });
    return box;
  }
  const visible = (piece) => piece === "" ? "·" : piece.replaceAll("\n", "↵").replaceAll("\t", "⇥");

  const at = (record, name, number) => record[name] === undefined ? null : record[name][number];

  function colour(record, number) {
    if (state.colour === "weight") {
      const weight = at(record, "weight", number);
      return weight === null || weight === 1 ? "" : signed(weight < 1, Math.abs(weight - 1), [0.05, 0.15]);
    }
    if (state.colour === "delta") {
      const delta = at(record, "delta", number);
      return delta === null || delta === 0 ? "" : signed(delta > 0, Math.abs(delta), [0.05, 0.5]);
    }
    const entropy = at(record, "entropy", number);
    const value = state.colour === "entropy" ? entropy : 1 - Math.exp(record.logp[number]);
    if (value === null) return "";
    const bounds = state.colour === "entropy" ? [0.05, 0.5, 1.5] : [0.05, 0.5, 0.9];
    const strength = bounds.filter((bound) => value > bound).length;
    return strength ? `magnitude s${strength}` : "";
  }
  function signed(locked, size, bounds) {
    return `${locked ? "locked" : "accelerated"} s${1 + bounds.filter((bound) => size > bound).length}`;
  }

  function legend() {
    const sample = (classes, text) => element("span", { className: `t ${classes}`, textContent: text });
    const told = {
      weight: [sample("accelerated s3", "accelerated"), " w > 1, solid line; ", sample("locked s3", "locked"), " w < 1, dotted line; plain: w = 1 or none. Thicker: further from 1, at 0.05 and 0.15."],
      delta: [sample("accelerated s3", "lagging"), " δ < 0, solid line; ", sample("locked s3", "past"), " δ > 0, dotted line. Thicker: larger |δ|, at 0.05 and 0.5 nats."],
      entropy: [sample("magnitude s1", "above 0.05"), " ", sample("magnitude s2", "0.5"), " ", sample("magnitude s3", "1.5 nats"), " entropy of the policy where the token was drawn."],
      probability: [sample("magnitude s1", "below 95%"), " ", sample("magnitude s2", "50%"), " ", sample("magnitude s3", "10%"), " the policy's probability of the token."],
    };
    document.getElementById("legend").replaceChildren(...told[state.colour]);
  }

  function facts(record, number) {
    const told = (name, digits) => { const value = at(record, name, number); return value === null ? "–" : value.toFixed(digits); };
    const weight = at(record, "weight", number);
    const kind = weight === null ? "" : weight > 1 ? " accelerated" : weight < 1 ? " locked" : " neutral";
    return [
      ["token", `${number + 1}: ${JSON.stringify(record.pieces[number])}`], ["δ", told("delta", 4)], ["w", told("weight", 4) + kind],
      ["log π", told("logp", 4)], ["log ref", told("ref_logp", 4)], ["π", `${(100 * Math.exp(record.logp[number])).toFixed(2)}%`],
      ["entropy", told("entropy", 4)], ["advantage", String(record.advantage)],
    ];
  }

  function point(token) {
    for (const other of responses.querySelectorAll(".t.at")) other.classList.remove("at");
    token.classList.add("at");
    const list = element("dl");
    for (const [name, value] of facts(token.record, Number(token.dataset.number))) {
      list.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
    }
    detail.replaceChildren(list);
  }

  function tokenTable(record) {
    const names = facts(record, 0).map(([name]) => name);
    return element("div", { className: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col", textContent: name })))),
      element("tbody", {}, ...record.pieces.map((_, number) => element("tr", {},
        ...facts(record, number).map(([, value]) => element("td", { textContent: value })))))));
  }

  function go(by) {
    if (!state.found.length) return;
    state.at = (state.at + by + state.found.length) % state.found.length;
    const hadFocus = responses.contains(document.activeElement);
    show();
    if (hadFocus) responses.querySelector(".t")?.focus();
  }
  function toggle(name, button) {
    state[name] = !state[name];
    button.setAttribute("aria-pressed", String(state[name]));
    show();
  }
  function paint(value) {
    state.colour = value;
    document.querySelector(`#colour [value="${value}"]`).checked = true;
    for (const token of responses.querySelectorAll(".tokens .t")) {
      token.className = `t ${colour(token.record, Number(token.dataset.number))}`;
    }
    legend();
  }

  responses.addEventListener("mouseover", (event) => { const token = event.target.closest(".tokens .t"); if (token) point(token); });
  responses.addEventListener("focusin", (event) => { const token = event.target.closest(".tokens .t"); if (token) point(token); });
  responses.addEventListener("click", (event) => { const token = event.target.closest(".tokens .t"); if (token) token.focus(); });
  responses.addEventListener("keydown", (event) => {
    const token = event.target.closest(".tokens .t");
    if (!token || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...token.closest(".tokens").querySelectorAll(".t")];
    const number = all.indexOf(token);
    const aim = { ArrowRight: number + 1, ArrowLeft: number - 1, Home: 0, End: all.length - 1 }[event.key];
    const colours = ["weight", "delta", "entropy", "probability"];
    if (aim !== undefined) {
      const to = all[Math.min(Math.max(aim, 0), all.length - 1)];
      token.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    } else if (event.key === "n") go(1);
    else if (event.key === "p") go(-1);
    else if (event.key === "s") { toggle("side", document.getElementById("side")); responses.querySelector(".t")?.focus(); }
    else if (colours[Number(event.key) - 1]) paint(colours[Number(event.key) - 1]);
    else return;
    event.preventDefault();
  });
  document.getElementById("previous").addEventListener("click", () => go(-1));
  document.getElementById("next").addEventListener("click", () => go(1));
  document.getElementById("side").addEventListener("click", (event) => toggle("side", event.currentTarget));
  document.getElementById("as-table").addEventListener("click", (event) => toggle("table", event.currentTarget));
  document.getElementById("colour").addEventListener("change", (event) => paint(event.target.value));
  document.getElementById("filters").addEventListener("change", (event) => {
    if (event.target === filters.run) setUp();
    if (event.target === filters.stage) steps();
    find();
  });
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  setUp();
  find();
  viewer.hidden = false;
}
