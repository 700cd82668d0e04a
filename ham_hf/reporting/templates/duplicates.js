"use strict";

const pairs = JSON.parse(document.getElementById("pairs").textContent);
const find = (id) => document.getElementById(id);
const nameOf = (pair) => pair.sides.map((side) => side.id).join(",");
const storage = `duplicates ${pairs.map(nameOf).join(" ")}`;
const choices = [...document.querySelectorAll("[data-decision]")];
let decisions = {};
let position = 0;

try {
  decisions = JSON.parse(localStorage.getItem(storage)) ?? {};
} catch {
  // a browser that keeps nothing for files still exports what was decided since the page was opened
}

// Pictures keep the pixels that the transform is in; the frame scales all of them to its width
function draw(frame, side, image, transform) {
  const scale = frame.clientWidth / side.frameWidth;
  image.src = side.source;
  image.alt = side.id;
  image.style.transform = `scale(${scale}) matrix(${transform.join(",")})`;
  frame.style.height = `${scale * side.frameHeight}px`;
}

function show() {
  const pair = pairs[position];
  const [first, second] = pair.sides;
  const unchanged = [1, 0, 0, 1, 0, 0];
  for (const [id, side] of [["first", first], ["second", second]]) {
    const own = { ...side, frameWidth: side.width, frameHeight: side.height };
    draw(find(id), own, find(id).querySelector("img"), unchanged);
    find(id).nextElementSibling.textContent = `${side.id} · ${side.facts}`;
  }
  const [below, above] = find("overlay").querySelectorAll("img");
  const frame = { frameWidth: first.width, frameHeight: first.height };
  draw(find("overlay"), { ...first, ...frame }, below, unchanged);
  draw(find("overlay"), { ...second, ...frame }, above, pair.transform);
  above.style.opacity = find("slider").value / 100;
  const decided = Object.keys(decisions).length;
  find("position").textContent = `Pair ${position + 1} of ${pairs.length}, ${decided} decided`;
  find("measured").textContent = pair.measured;
  for (const button of choices) {
    button.setAttribute("aria-pressed", button.dataset.decision === decisions[nameOf(pair)]);
  }
}

function move(step) {
  position = Math.min(Math.max(position + step, 0), pairs.length - 1);
  show();
}

function decide(decision) {
  decisions[nameOf(pairs[position])] = decision;
  try {
    localStorage.setItem(storage, JSON.stringify(decisions));
  } catch {
    // as above
  }
  move(1);
}

function blink() {
  const on = find("overlay").classList.toggle("blinking");
  find("blink").setAttribute("aria-pressed", on);
  find("slider").value = on ? 100 : 50;
  show();
}

function exportDecisions() {
  const lines = pairs.map(nameOf).filter((name) => name in decisions).map((name) => `${name},${decisions[name]}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([["image_a,image_b,decision", ...lines, ""].join("\n")], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const button of choices) button.addEventListener("click", () => decide(button.dataset.decision));
find("previous").addEventListener("click", () => move(-1));
find("next").addEventListener("click", () => move(1));
find("blink").addEventListener("click", blink);
find("export").addEventListener("click", exportDecisions);
find("slider").addEventListener("input", show);
addEventListener("resize", show);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const chosen = choices.find((button) => button.getAttribute("aria-keyshortcuts") === event.key);
  if (chosen) decide(chosen.dataset.decision);
  else if (event.key === "ArrowRight" && event.target.id !== "slider") move(1);
  else if (event.key === "ArrowLeft" && event.target.id !== "slider") move(-1);
  else if (event.key === "b") blink();
  else if (event.key === "e") exportDecisions();
});
show();
