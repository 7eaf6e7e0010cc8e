// The page of `python -m i3d_tf.serve`: sends videos to /v1/videos and draws what comes back.
"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
// Colours that are told apart in light and dark and with most kinds of colour blindness; dashes help, too.
const COLORS = ["#3b7ddd", "#d1731f", "#2a9d63", "#c0458f", "#8c6bd6", "#b58b00", "#159fb0", "#8a8f99"];
const DASHES = ["", "8 3", "2 3", "10 3 2 3", "", "8 3", "2 3", "10 3 2 3"];
const SECONDS = 4; // of a piece from the camera
const RETRIES = 10;
const PICTURES = 10;
const files = new Map(); // by number of a result: what downloads are made of
const store = { key: "i3d_tf.history", most: 20 };
let limits = { max_bytes: Infinity, max_seconds: Infinity };
let models = [];
let shown = null; // the result on the page
let request = null; // the upload that runs
let live = null; // the camera
let token = sessionStorage.getItem("i3d_tf.token") || "";
let past = JSON.parse(sessionStorage.getItem(store.key) || "[]");

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function draw(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

const percent = (value) => (value >= 0.0005 ? `${(100 * value).toFixed(1)} %` : "< 0.1 %");
const clock = (seconds) => `${seconds.toFixed(2)} s`;
const say = (text) => { $("status").textContent = text; };
const fail = (text) => { $("error").textContent = text; };
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// Sends a form; resolves with the answer, rejects with a sentence. Retries while the service is busy.
async function send(fields, { type = "json", quiet = false } = {}) {
  for (let attempt = 0; ; attempt++) {
    const answer = await post(fields, type, quiet);
    if (answer.status === 200) return answer.body;
    if (answer.status === 401) { await ask(); continue; }
    if (answer.status === 429 && attempt < RETRIES) {
      if (!quiet) say("The service is busy; trying again …");
      await pause(answer.retry);
      if (request && request.cancelled) throw new Error("Cancelled.");
      continue;
    }
    throw new Error(await sentence(answer));
  }
}

function post(fields, type, quiet) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value, ...(value instanceof Blob ? [value.name || "camera.webm"] : []));
    const http = new XMLHttpRequest();
    http.open("POST", "v1/videos");
    if (token) http.setRequestHeader("Authorization", `Bearer ${token}`);
    http.responseType = type === "json" ? "json" : "blob";
    if (!quiet) {
      request = { http, cancelled: false };
      http.upload.onprogress = (event) => {
        $("progress").hidden = event.loaded === event.total;
        $("progress").value = event.loaded / event.total;
        say(event.loaded === event.total ? "Looking at the video …" : "Uploading …");
      };
    }
    http.onload = () => resolve({ status: http.status, body: http.response, retry: Number(http.getResponseHeader("Retry-After")) || 1 });
    http.onerror = () => reject(new Error("The connection to the service was lost. Is it still running? Try again."));
    http.onabort = () => reject(new Error("Cancelled."));
    http.send(form);
  });
}

async function sentence({ status, body }) {
  if (body instanceof Blob) {
    try { body = JSON.parse(await body.text()); } catch { body = null; }
  }
  const text = (body && body.error) || `The service answered with the status ${status}`;
  // A file's name at its beginning stays as it is.
  return `${text.replace(/^[a-z]+(?= )/, (word) => word.charAt(0).toUpperCase() + word.slice(1))}.`.replace(/\.\.$/, ".");
}

function ask() {
  return new Promise((done) => {
    $("login").onclose = () => {
      token = $("token").value.trim();
      sessionStorage.setItem("i3d_tf.token", token);
      done();
    };
    $("login").showModal();
  });
}

async function analyse(file) {
  if (request || live) return;
  fail("");
  if (file.size > limits.max_bytes) {
    fail(`${file.name} has ${Math.ceil(file.size / 1e6)} MB; at most ${Math.floor(limits.max_bytes / 1e6)} MB are taken. Cut or compress it before.`);
    return;
  }
  busy(true);
  say("Uploading …");
  try {
    const result = await send({ file, model: $("model").value, pictures: PICTURES });
    say(`${result.name}: ${result.whole[0].label}, ${percent(result.whole[0].probability)}.`);
    show(remember(result, file));
    $("name").focus();
  } catch (error) {
    say("");
    fail(error.message);
  } finally {
    busy(false);
  }
}

function busy(is) {
  if (!is) request = null;
  $("cancel").hidden = !is;
  $("camera").disabled = $("file").disabled = is;
  if (!is) $("progress").hidden = true;
  $("drop").setAttribute("aria-busy", is);
}

function remember(result, file) {
  result.number = 1 + Math.max(0, ...past.map((each) => each.number));
  if (file) files.set(result.number, file);
  past = [result, ...past].slice(0, store.most);
  // Pictures are too large for the session's store.
  try { sessionStorage.setItem(store.key, JSON.stringify(past.map((each) => ({ ...each, pictures: undefined })))); } catch { /* full */ }
  list();
  return result;
}

function list() {
  $("past").hidden = !past.length;
  $("history").replaceChildren(...past.map((each) => {
    const button = make("button", { type: "button", onclick: () => { show(each); $("name").focus(); } },
      make("span", { textContent: each.name }),
      make("span", { textContent: `${each.whole[0].label}, ${percent(each.whole[0].probability)}` }));
    return make("li", {}, button);
  }));
}

function show(result) {
  shown = result;
  const file = files.get(result.number);
  $("result").hidden = false;
  $("name").textContent = result.name;
  $("facts").textContent = [`${result.seconds.toFixed(1)} s`, `network ${result.model.name}, version ${result.model.version}`, ...result.remarks].join("; ");
  play(file);
  rank($("whole"), result.whole);
  chart(result);
  $("time").max = result.seconds;
  at(result.windows.length ? Math.min(result.windows[0].time, result.seconds) : 0);
  const pictures = result.pictures || [];
  $("pictures").hidden = !pictures.length;
  $("strip").replaceChildren(...pictures.map((each) => make("figure", {},
    make("img", { src: `data:image/jpeg;base64,${each.frame}`, alt: `Frame at ${clock(each.time)}` }),
    make("img", { src: `data:image/jpeg;base64,${each.flow}`, alt: `Its motion, coloured by direction` }),
    make("figcaption", { textContent: clock(each.time) }))));
  $("table").tBodies[0].replaceChildren(...result.windows.map((each) => make("tr", {},
    ...[clock(each.start), clock(each.end), each.classes[0].label, percent(each.classes[0].probability)].map((text) => make("td", { textContent: text })))));
  for (const button of document.querySelectorAll("[data-output]")) button.disabled = button.dataset.output !== "json" && !file;
  $("heat").hidden = true;
}

function play(file) {
  const player = $("player");
  if (live) return;
  if (player.src) URL.revokeObjectURL(player.src);
  player.srcObject = null;
  player.hidden = !file;
  $("unplayable").hidden = true;
  player.onerror = () => { player.hidden = true; $("unplayable").hidden = false; };
  if (file) player.src = URL.createObjectURL(file);
  else player.removeAttribute("src");
}

function rank(element, classes) {
  element.replaceChildren(...classes.map((each) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * each.probability}%`;
    return make("li", {}, bar, make("span", { textContent: each.label }), make("span", { textContent: percent(each.probability) }));
  }));
}

const AREA = { left: 40, right: 990, top: 10, bottom: 180 }; // pixels; as wide as the page

function chart(result) {
  AREA.right = Math.max(200, $("chart").clientWidth - 10);
  const { left, right, top, bottom } = AREA;
  const x = (time) => left + (right - left) * (time / Math.max(result.seconds, 1e-9));
  const y = (value) => bottom - (bottom - top) * value;
  const best = result.timeline.classes[0];
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${right + 10} 208`, role: "img" })) svg.setAttribute(key, value);
  svg.setAttribute("aria-label", `Probabilities of ${result.timeline.classes.length} classes over ${clock(result.seconds)}; mostly ${best.label}. The table of windows has the numbers.`);
  for (const value of [0, 0.5, 1]) {
    draw("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }, svg);
    draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, svg).textContent = value;
  }
  for (let step = 0; step <= 4; step++) {
    const time = (result.seconds * step) / 4;
    draw("text", { x: x(time), y: 200, "text-anchor": ["start", "middle", "middle", "middle", "end"][step] }, svg).textContent = `${time.toFixed(1)} s`;
  }
  draw("rect", { class: "seen", y: top, height: bottom - top, x: left, width: 0 }, svg);
  result.timeline.classes.forEach((each, index) => {
    const points = result.timeline.times.map((time, step) => [time, each.probabilities[step]]);
    if (points.length) points.unshift([0, points[0][1]]), points.push([result.seconds, points[points.length - 1][1]]);
    draw("polyline", { points: points.map(([time, value]) => `${x(Math.min(Math.max(time, 0), result.seconds)).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
      fill: "none", stroke: COLORS[index], "stroke-width": 2, "stroke-dasharray": DASHES[index], "vector-effect": "non-scaling-stroke" }, svg);
  });
  draw("line", { class: "cursor", y1: top, y2: bottom, x1: left, x2: left, "vector-effect": "non-scaling-stroke" }, svg);
  svg.onclick = (event) => {
    const box = svg.getBoundingClientRect();
    seek(Math.min(Math.max((((event.clientX - box.left) / box.width) * (right + 10) - left) / (right - left), 0), 1) * result.seconds);
  };
  $("chart").replaceChildren(svg);
  $("legend").replaceChildren(...result.timeline.classes.map((each, index) => {
    const item = make("li");
    const line = draw("svg", { viewBox: "0 0 32 10", "aria-hidden": "true" }, item);
    draw("line", { x1: 0, x2: 32, y1: 5, y2: 5, stroke: COLORS[index], "stroke-width": 3, "stroke-dasharray": DASHES[index] }, line);
    item.append(each.label);
    return item;
  }));
}

// Shows what is said of one moment: of the window whose middle is nearest.
function at(time) {
  const windows = shown.windows;
  const nearest = windows.reduce((best, each) => (Math.abs(each.time - time) < Math.abs(best.time - time) ? each : best), windows[0]);
  const x = (seconds) => AREA.left + (AREA.right - AREA.left) * (seconds / Math.max(shown.seconds, 1e-9));
  const cursor = $("chart").querySelector(".cursor"), seen = $("chart").querySelector(".seen");
  cursor.setAttribute("x1", x(time));
  cursor.setAttribute("x2", x(time));
  seen.setAttribute("x", x(nearest.start));
  seen.setAttribute("width", Math.max(0, x(nearest.end) - x(nearest.start)));
  $("time").value = time;
  $("time").setAttribute("aria-valuetext", `${clock(time)}: ${nearest.classes[0].label}, ${percent(nearest.classes[0].probability)}`);
  $("now").textContent = clock(time);
  rank($("top"), nearest.classes);
}

function seek(time) {
  at(time);
  const player = $("player");
  if (!live && !player.hidden && player.readyState) player.currentTime = time;
}

async function download(output) {
  const result = shown, file = files.get(result.number);
  const stem = result.name.replace(/\.[^.]*$/, "");
  fail("");
  if (output === "json") return save(new Blob([JSON.stringify({ ...result, number: undefined, pictures: undefined }, null, 1)], { type: "application/json" }), `${stem}.json`);
  if (request || live) return;
  busy(true);
  try {
    const answer = await send({ file, model: result.model.name, version: result.model.version, output }, { type: "blob" });
    say("Done.");
    if (output === "activation") {
      if ($("heatmap").src) URL.revokeObjectURL($("heatmap").src);
      $("heatmap").src = URL.createObjectURL(answer);
      $("heatmap").alt = `Where the network sees ${result.whole[0].label} in frames of ${result.name}`;
      $("heat").hidden = false;
    } else {
      save(answer, output === "features" ? `${stem}.npy` : `${stem}_annotated.mp4`);
    }
  } catch (error) {
    say("");
    fail(error.message);
  } finally {
    busy(false);
  }
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// The camera: pieces of some seconds, each sent when it is recorded, and joined to one timeline.
async function startCamera() {
  if (request || live) return;
  fail("");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } }, audio: false });
  } catch (error) {
    fail(!window.isSecureContext ? "Browsers give the camera to pages at localhost or behind HTTPS only." : error.name === "NotFoundError" ? "There is no camera." : "The camera may not be used; allow it in the browser.");
    return;
  }
  live = { stream, result: null, isSending: false, camera: $("camera").textContent };
  $("camera").textContent = "Stop the camera";
  $("file").disabled = true;
  $("result").hidden = false;
  $("name").textContent = "Camera";
  const player = $("player");
  player.hidden = false;
  $("unplayable").hidden = true;
  player.removeAttribute("src");
  player.srcObject = stream;
  player.play().catch(() => {});
  say("Recording; the first result comes in some seconds.");
  while (live) {
    const current = live, piece = await record(current.stream);
    if (live && !live.isSending && piece.size) sendPiece(current, piece);
  }
}

function record(stream) {
  return new Promise((done) => {
    const parts = [], recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => done(new Blob(parts, { type: recorder.mimeType }));
    recorder.onerror = () => done(new Blob([]));
    recorder.start();
    setTimeout(() => recorder.state !== "inactive" && recorder.stop(), 1000 * SECONDS);
  });
}

async function sendPiece(current, piece) {
  current.isSending = true;
  try {
    const result = await send({ file: piece, model: $("model").value }, { quiet: true });
    if (live !== current) return;
    fail("");
    current.result = current.result ? join(current.result, result) : result;
    current.result.name = "Camera";
    show(current.result);
    const last = current.result.windows[current.result.windows.length - 1];
    at(last.time);
    say(`${result.whole[0].label}, ${percent(result.whole[0].probability)}`);
  } catch (error) {
    fail(error.message);
  } finally {
    current.isSending = false;
  }
}

// Appends a piece to what came before; a class that one of them does not list counts as 0 there.
function join(first, second) {
  const shift = first.seconds;
  const labels = [...new Set([...first.timeline.classes, ...second.timeline.classes].map((each) => each.label))];
  const of = (result, label) => (result.timeline.classes.find((each) => each.label === label) || {}).probabilities || result.timeline.times.map(() => 0);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const classes = labels.map((label) => ({ label, probabilities: [...of(first, label), ...of(second, label)] }))
    .sort((a, b) => sum(b.probabilities) - sum(a.probabilities)).slice(0, COLORS.length);
  return { ...second, seconds: shift + second.seconds,
    windows: [...first.windows, ...second.windows.map((each) => ({ ...each, time: each.time + shift, start: each.start + shift, end: each.end + shift }))],
    timeline: { times: [...first.timeline.times, ...second.timeline.times.map((time) => time + shift)], classes } };
}

function stopCamera() {
  const { stream, result, camera } = live;
  live = null;
  for (const track of stream.getTracks()) track.stop();
  $("player").srcObject = null;
  $("camera").textContent = camera;
  $("file").disabled = false;
  say("The camera is off.");
  if (result) show(remember(result, null));
  else if (!shown) $("result").hidden = true;
}

async function start() {
  for (let isDone = false; !isDone; ) {
    try {
      const answer = await fetch("v1/models", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
      if (answer.status === 401) { await ask(); continue; }
      if (!answer.ok) throw new Error();
      const found = await answer.json();
      models = found.models.filter((each) => each.takes_videos);
      limits = found.limits;
      isDone = true;
    } catch {
      fail("The service cannot be reached. Is it still running?");
      return;
    }
  }
  $("model").replaceChildren(...models.map((each) => make("option", { value: each.name, textContent: each.name })));
  $("limits").textContent = `At most ${limits.max_seconds} seconds and ${Math.floor(limits.max_bytes / 1e6)} MB. It goes to this service only.`;
  if (!models.length) fail("None of the networks that are served takes videos.");
}

$("file").onchange = () => { if ($("file").files.length) analyse($("file").files[0]); $("file").value = ""; };
$("cancel").onclick = () => { if (request) { request.cancelled = true; request.http.abort(); } };
$("camera").onclick = () => (live ? stopCamera() : startCamera());
$("time").oninput = () => seek(Number($("time").value));
$("player").ontimeupdate = () => { if (shown && !live && !$("player").paused) at($("player").currentTime); };
for (const button of document.querySelectorAll("[data-output]")) button.onclick = () => download(button.dataset.output);
for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) analyse(event.dataTransfer.files[0]);
});
addEventListener("resize", () => { if (shown) chart(shown), at(Number($("time").value)); });
list();
start();
