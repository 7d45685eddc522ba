/** The page: a picture and texts go to the worker, and what the model says is shown. */

const DEFAULT = ["model", "answers"]; // the shipped model, and the one that was made of it for answers
const SHIPPED = {
  pictures: { "1f98a": "fox", "1f353": "strawberry", "1f680": "rocket", "1f419": "octopus", "1f3b8": "guitar" },
  questions: ["what color is it mostly?", "what group is it of?", "what is it?"],
  texts: ["fox", "strawberry", "guitar"],
};

const $ = (id) => document.getElementById(id);
const tasks = ["caption", "answer", "match"];
const chosen = new URLSearchParams(location.search).getAll("model");
let can = [];
let picture = null; // the file that is shown
let look = null; // what the worker makes of it: a promise
const turns = {}; // by task: only what was asked last is shown

// The worker: calls are numbered, and so are their results.
let worker;
const waiting = new Map();
let calls = 0;

function startWorker() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data: { number, progress, error, ...found } }) => {
    const { resolve, reject, progress: report } = waiting.get(number);
    if (progress) return report(progress);
    waiting.delete(number);
    if (error) reject(new Error(error));
    else resolve(found);
  };
  worker.onerror = () => fail(new Error("The program could not be loaded; reload the page, or try a newer browser."));
}

function call(name, given, progress = () => {}) {
  worker.postMessage({ number: ++calls, call: name, given });
  return new Promise((resolve, reject) => waiting.set(calls, { resolve, reject, progress }));
}

function say(text) {
  $("status").textContent = text;
}

function fail(error) {
  say("");
  $("error").textContent = error.message;
}

/** Load models, then show what they can do. */
async function open(given) {
  say("Loading the model …");
  $("error").textContent = "";
  const shown = ({ bytes }) => say(`Loading the model: ${(bytes / 1e6).toFixed(1)} MB`);
  try {
    const { result } = await call("open", given, shown);
    can = result.can;
    $("about").hidden = $("samples").hidden = given.paths !== DEFAULT;
    $("model").textContent = result.about.join(" · ");
  } catch (error) {
    return fail(error);
  }
  say("Ready: choose a picture.");
  tasks.forEach((task) => ($(task).hidden = !can.includes(task)));
  document.body.dataset.ready = "yes";
  if (picture) show(picture);
}

/** Show a picture, and ask everything that can be asked about it. */
function show(file) {
  picture = file;
  $("error").textContent = "";
  const name = file.name || "The picture";
  const image = $("preview");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.alt = name;
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
  image.hidden = false;
  if (!can.length) return;
  look = call("look", { file, name });
  look.then(
    ({ milliseconds }) => say(`${name}, read in ${Math.round(milliseconds)} ms`),
    (error) => {
      image.hidden = true;
      picture = look = null;
      tasks.forEach(clear);
      fail(error);
    },
  );
  say("Looking …");
  tasks.filter((task) => can.includes(task)).forEach((task) => ask[task]());
}

function clear(task) {
  turns[task] = {};
  if (task === "match") $("matches").hidden = true;
  else $(`${task}-text`).value = $(`${task}-note`).textContent = "";
}

/** Call the worker about the picture; `shown` gets the result unless something else was asked since. */
async function about(task, given, shown, progress) {
  clear(task);
  const turn = turns[task];
  if (!look) return say("Choose a picture first.");
  try {
    const asked = call(task, given, (step) => turns[task] === turn && progress?.(step));
    await look.catch(() => {});
    const { result, milliseconds } = await asked;
    if (turns[task] === turn) shown(result, milliseconds);
  } catch (error) {
    if (turns[task] === turn && look) fail(error);
  }
}

function options() {
  const given = {};
  if ($("beams").value) given.num_beams = $("beams").valueAsNumber;
  if ($("longest").value) given.max_new_tokens = $("longest").valueAsNumber;
  return given;
}

function written(task) {
  return ({ text, confidence }, milliseconds) => {
    $(`${task}-text`).value = text || "(nothing)";
    $(`${task}-note`).textContent = `confidence ${confidence.toFixed(2)}, ${Math.round(milliseconds)} ms`;
  };
}

const ask = {
  caption() {
    const shown = written("caption");
    const given = { prompt: $("prompt").value || null, options: options() };
    const alt = (result) => ($("preview").alt = result.text);
    return about(
      "caption",
      given,
      (result, time) => [shown(result, time), alt(result)],
      ({ text }) => ($("caption-text").value = text),
    );
  },

  answer() {
    const question = $("question").value.trim();
    if (question) return about("answer", { question, options: options() }, written("answer"));
    clear("answer");
  },

  match() {
    const texts = $("texts")
      .value.split("\n")
      .map((text) => text.trim())
      .filter(Boolean);
    if (texts.length) return about("match", { texts }, showMatches);
    clear("match");
  },
};

function showMatches(rows) {
  const best = Math.max(0.5, ...rows.map(({ itm }) => itm)); // below a half nothing matches
  $("matches").tBodies[0].replaceChildren(
    ...rows.map(({ text, itm, itc }) => {
      const row = document.createElement("tr");
      row.classList.toggle("best", itm === best);
      const similarity = itc === null ? "" : (Math.round(itc * 100) / 100 + 0).toFixed(2); // no -0.00
      for (const content of [text, `${(itm * 100).toFixed(1)} %`, similarity]) row.insertCell().textContent = content;
      row.style.setProperty("--share", itm);
      return row;
    }),
  );
  $("matches").hidden = false;
}

/** Take what was dropped, pasted or chosen. */
function take(data) {
  const file = [...(data?.files ?? [])][0];
  if (!file) return fail(new Error("That is no picture file; choose, drop or paste a PNG, JPEG or WebP file."));
  show(file);
}

$("file").addEventListener("change", ({ target }) => target.files.length && take(target));
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length || !event.target.matches("input, textarea")) take(event.clipboardData);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragged", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer);
  });
}
for (const [form, task] of [
  ["ask", "answer"],
  ["compare", "match"],
  ["settings", "caption"],
]) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    $("error").textContent = "";
    ask[task]();
  });
}
$("settings").addEventListener("change", ({ target }) => {
  if (target.id === "folder") {
    if (target.files.length) open({ files: [...target.files] });
  } else if (look && target.form.reportValidity()) {
    show(picture);
  }
});

/** What only the shipped model can do something with. */
function offerExamples() {
  $("question").value = SHIPPED.questions[0];
  $("texts").value = SHIPPED.texts.join("\n");
  $("questions").replaceChildren(...SHIPPED.questions.map((question) => new Option(question)));
  for (const [code, name] of Object.entries(SHIPPED.pictures)) {
    const button = document.createElement("button");
    const image = new Image();
    image.src = `pictures/${code}.png`;
    image.alt = name;
    button.append(image);
    button.onclick = async () => show(new File([await (await fetch(image.src)).blob()], `${name}.png`));
    $("samples").append(button);
  }
}

/** Wait until everything that is loaded from now on is kept for times without a network. */
async function keepForLater() {
  if (!navigator.serviceWorker) return; // a server without encryption
  const taken = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve));
  const late = new Promise((resolve) => setTimeout(resolve, 3000));
  await navigator.serviceWorker.register("sw.js").catch(() => {});
  if (!navigator.serviceWorker.controller) await Promise.race([taken, late]);
}

await keepForLater();
startWorker();
if (!chosen.length) offerExamples();
await open({ paths: chosen.length ? chosen : DEFAULT });
