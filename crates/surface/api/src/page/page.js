// Asks the relay every two seconds, and shows the answers. Everything that comes from a client or
// from a server is put in as text, never as markup.
"use strict";

const STEP_MS = 2000;
const POINTS_MAX = 150;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const history = new Map(); // lag in bytes of each client, oldest first
let things = [];

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return (unit === 0 ? count : count.toFixed(1)) + " " + units[unit];
}

function seconds(count) {
  if (count === null || count === undefined) return "–";
  if (count < 60) return count.toFixed(1) + " s";
  if (count < 3600) return Math.floor(count / 60) + " min";
  if (count < 86400) return (count / 3600).toFixed(1) + " h";
  return (count / 86400).toFixed(1) + " days";
}

const count = (number) => number.toLocaleString("en");

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(path + ": status " + answer.status);
  return answer.json();
}

function showUpstream(status) {
  const { address, reachable, problem, switches, hosts } = status.upstream;
  const line = at("upstream");
  line.replaceChildren(element("span", (address || "none of its hosts") + " "));
  line.append(element("span", reachable ? "reachable" : "NOT reachable", reachable ? "good" : "bad"));
  if (problem) line.append(element("span", ": " + problem, "bad"));
  if (switches > 0) line.append(element("span", " · moved " + switches + " times", "dim"));
  const others = hosts.length > 1 ? hosts : [];
  at("hosts").replaceChildren(...others.map((it) => element("li",
    [it.host, it.role, it.timeline && "timeline " + it.timeline, it.unfit].filter(Boolean).join(" · "))));
  at("relay").textContent = "Version " + status.version + ", up for " + seconds(status.uptime_secs)
    + ", listening on " + status.listen.join(", ") + ". " + count(status.connections)
    + " connections, " + count(status.alarms) + " alarms so far.";
}

// The line of the lag; nothing is drawn where it was not known.
function chart(points, name) {
  const svg = document.createElementNS(SVG, "svg");
  const top = Math.max(1, ...points.filter((it) => it !== null));
  svg.setAttribute("viewBox", "0 0 " + (POINTS_MAX - 1) + " 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Lag of " + name + " over the last minutes, at most " + bytes(top));
  const left = POINTS_MAX - points.length;
  let line = "", area = "", start = null;
  points.forEach((lag, number) => {
    if (lag === null) { start = null; return; }
    const x = left + number, y = 98 - 94 * lag / top;
    line += (start === null ? "M" : "L") + x + " " + y.toFixed(1);
    area += (start === null ? "M" + x + " 98L" : "L") + x + " " + y.toFixed(1);
    if (number + 1 === points.length || points[number + 1] === null) area += "L" + x + " 98Z";
    start = x;
  });
  for (const [kind, d] of [["area", area], ["line", line]]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", d);
    svg.append(path);
  }
  return [svg, top];
}

function card(client) {
  const name = client.name || client.user || "(no name)";
  const made = element("article");
  made.dataset.client = client.name;
  made.append(element("h3", name));
  const what = [client.activity, client.configuration || "no configuration",
    client.filtered ? "with a filter" : "everything", client.address];
  made.append(element("p", what.join(" · "), "dim"));
  const last = client.replay.lsn ? client.replay : client.flush;
  const secs = last.lag_secs;
  const mood = secs === null ? "dim" : secs < 10 ? "good" : secs < 60 ? "warn" : "bad";
  const lag = element("p", secs === null ? "not known yet" : last.lag_bytes === 0 ? "up to date"
    : bytes(last.lag_bytes) + " behind, for " + seconds(secs), "big " + mood);
  lag.dataset.lag = last.lag_bytes;
  made.append(lag);
  const points = history.get(client.id) || [];
  const [svg, top] = chart(points, name);
  const axis = element("p", undefined, "axis dim");
  axis.append(element("span", "5 min ago"), element("span", "highest " + bytes(top)), element("span", "now"));
  made.append(svg, axis);
  const list = element("dl");
  for (const [stage, words] of [["sent", "Sent"], ["write", "Written"], ["flush", "On disk"], ["replay", "Replayed"]]) {
    const { lsn, lag_bytes } = client[stage];
    list.append(element("dt", words), element("dd", lsn ? lsn + " (" + bytes(lag_bytes) + " behind)" : "–"));
  }
  made.append(list);
  return made;
}

function showClients(clients) {
  for (const id of history.keys()) {
    if (!clients.some((it) => it.id === id)) history.delete(id);
  }
  const cards = clients.map(card);
  at("clients").replaceChildren(...(cards.length ? cards : [element("p", "Nobody is connected.")]));
}

function remember(clients) {
  for (const client of clients) {
    const points = history.get(client.id) || [];
    const last = client.replay.lsn ? client.replay : client.flush;
    points.push(client.activity === "streaming" ? last.lag_bytes : null);
    while (points.length > POINTS_MAX) points.shift();
    history.set(client.id, points);
  }
}

function showConfigurations(all) {
  at("configurations").replaceChildren(...all.map((it) => {
    const row = element("tr");
    const name = element("th", it.name === null ? "(none)" : it.name);
    name.scope = "row";
    row.append(name);
    const share = element("td");
    const sum = it.records_passed + it.records_replaced;
    if (it.filtered && sum > 0) {
      const meter = element("meter");
      meter.max = sum;
      meter.value = it.records_passed;
      const percent = (100 * it.records_passed / sum).toFixed(1) + " % passed";
      meter.setAttribute("aria-label", percent);
      share.append(meter, element("span", percent, "dim"));
    } else {
      share.textContent = it.filtered ? "none yet" : "no filter: everything passes";
    }
    row.append(share);
    const numbers = it.filtered
      ? [count(it.records_passed), count(it.records_replaced), bytes(it.replaced_bytes)] : ["–", "–", "–"];
    for (const text of [...numbers, bytes(it.sent_bytes)]) row.append(element("td", text, "number"));
    return row;
  }));
}

function showDatabases() {
  const wanted = at("find").value.trim().toLowerCase();
  const rows = [];
  for (const thing of things) {
    for (const it of thing.decisions) {
      const since = it.since ? it.since.lsn + ", timeline " + it.since.timeline : "always";
      const records = (number) => number === null ? "–" : count(number);
      const cells = [thing.name, thing.kind, String(thing.oid), it.configuration, it.decision,
        records(it.records_passed), records(it.records_replaced), it.why, since];
      if (wanted && !cells.join(" ").toLowerCase().includes(wanted)) continue;
      const row = element("tr");
      cells.forEach((text, place) => {
        const kind = [2, 5, 6].includes(place) ? "number" : place === 4 ? (text === "included" ? "good" : "warn") : "";
        row.append(element("td", text, kind));
      });
      rows.push(row);
      if (rows.length === 1000) break;
    }
  }
  const none = element("tr");
  none.append(element("td", wanted ? "Nothing of that name." : "Nothing was decided yet."));
  none.firstChild.colSpan = 9;
  at("databases").replaceChildren(...(rows.length ? rows : [none]));
}

function showEvents(events) {
  at("events").replaceChildren(...events.slice().reverse().map((it) => {
    const line = element("li");
    const when = new Date(it.at_unix_ms);
    const time = element("time", when.toLocaleTimeString());
    time.dateTime = when.toISOString();
    const kind = it.level === "ERROR" ? "bad" : it.level === "WARN" ? "warn" : "dim";
    line.append(time, " ", element("span", it.level, kind), " ", it.message, " ", element("span", it.fields, "dim"));
    return line;
  }));
}

async function look() {
  const [status, clients, decided, log] = await Promise.all([
    ask("/v1/relay/status"), ask("/v1/relay/clients"), ask("/v1/relay/databases"), ask("/v1/relay/events")]);
  remember(clients);
  showUpstream(status);
  showClients(clients);
  showConfigurations(status.configurations);
  things = decided;
  showDatabases();
  showEvents(log.events);
}

async function run() {
  at("find").addEventListener("input", showDatabases);
  try {
    for (const it of (await ask("/v1/relay/history")).clients) history.set(it.id, it.lag_bytes);
  } catch (error) {
    // The chart begins now then.
  }
  for (;;) {
    const state = at("state");
    try {
      await look();
      if (state.textContent) state.textContent = "";
    } catch (error) {
      const words = "The relay does not answer: what is shown is old.";
      if (state.textContent !== words) { state.textContent = words; state.className = "bad"; }
    }
    await new Promise((done) => setTimeout(done, STEP_MS));
  }
}

run();
