// The page: who is signed in, what stands in the book, and what changes in it while it is open.
"use strict";

const byId = (id) => document.getElementById(id);
const [login, write, list, live, error] = ["login", "write", "entries", "live", "error"].map(byId);
const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
let me = null;
let entries = [];
let known = null; // ids that were shown before, to let only new ones arrive

async function call(method, path, value) {
  const options = { method, headers: {} };
  if (value) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(value);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached. Try again in a moment.");
  }
  const body = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "/api/login") setMe(null);
  if (!answer.ok) throw new Error(body.error || `The server answered ${answer.status}.`);
  return body;
}

function complain(problem) {
  error.textContent = problem ? problem.message : "";
  error.hidden = !problem;
}

async function busy(form, work) {
  const buttons = form.querySelectorAll("button");
  buttons.forEach((button) => (button.disabled = true));
  complain(null);
  try {
    await work();
  } catch (problem) {
    complain(problem);
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

function setMe(name) {
  me = name;
  login.hidden = me !== null;
  write.hidden = me === null;
  byId("me").textContent = me || "";
  show();
}

function show() {
  list.replaceChildren(...entries.map(item));
  byId("empty").hidden = known === null || entries.length > 0;
}

function item(entry) {
  const [row, text, foot, name, time] = ["li", "p", "footer", "strong", "time"].map((tag) => document.createElement(tag));
  text.textContent = entry.text;
  name.textContent = entry.name;
  time.textContent = times.format(entry.at);
  time.dateTime = new Date(entry.at).toISOString();
  foot.append(name, time);
  if (entry.name === me) {
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "quiet";
    remove.textContent = "Delete";
    remove.setAttribute("aria-label", `Delete your entry of ${time.textContent}`);
    remove.addEventListener("click", () => busy(row, async () => {
      await call("DELETE", `/api/entries/${entry.id}`);
      update(entries.filter((other) => other.id !== entry.id));
    }));
    foot.append(remove);
  }
  row.append(text, foot);
  row.classList.toggle("new", known !== null && !known.has(entry.id));
  return row;
}

function update(next) {
  const before = new Set(entries.map((entry) => entry.id));
  known = known === null ? new Set(next.map((entry) => entry.id)) : before;
  entries = next;
  show();
  known = new Set(entries.map((entry) => entry.id));
}

login.addEventListener("submit", (event) => {
  event.preventDefault();
  busy(login, async () => {
    const form = new FormData(login);
    const answer = await call("POST", "/api/login", { name: form.get("name"), password: form.get("password") });
    login.reset();
    setMe(answer.me);
    byId("text").focus();
  });
});

write.addEventListener("submit", (event) => {
  event.preventDefault();
  busy(write, async () => {
    const entry = await call("POST", "/api/entries", { text: byId("text").value });
    write.reset();
    countLeft();
    if (!entries.some((other) => other.id === entry.id)) update([entry, ...entries]);
  });
});

byId("logout").addEventListener("click", () => busy(write, async () => {
  await call("POST", "/api/logout");
  setMe(null);
}));

function countLeft() {
  byId("left").textContent = 500 - byId("text").value.length;
}
byId("text").addEventListener("input", countLeft);

function setLive(on) {
  live.textContent = on ? "live" : "reconnecting";
  live.classList.toggle("on", on);
}

// The browser connects again by itself when the stream ends, except when it was answered with an error.
function listen() {
  const stream = new EventSource("/api/events");
  stream.addEventListener("open", () => setLive(true));
  stream.addEventListener("entries", (event) => update(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    setLive(false);
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

call("GET", "/api/entries").then((answer) => {
  setMe(answer.me);
  update(answer.entries);
}).catch(complain);
listen();
