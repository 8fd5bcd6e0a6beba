// Runs the script of a project's page before a page of stubs, uses the map like a hand would, and prints what it asked
// for: node map_page.js PAGE SCRIPT
"use strict";
const fs = require("node:fs");
const vm = require("node:vm");

const [page, script] = process.argv.slice(2).map((file) => fs.readFileSync(file, "utf8"));
const text = (safe) =>
  safe.replace(/&quot;/g, '"').replace(/&#39;/g, "'").replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");

// The data attributes of a tag, as `dataset` has them.
function dataset(tag) {
  const found = {};
  for (const [, name, value] of tag.matchAll(/ data-([a-z-]+)="([^"]*)"/g)) {
    found[name.replace(/-(.)/g, (_, letter) => letter.toUpperCase())] = text(value);
  }
  return found;
}

class Stub {
  constructor(more) {
    this.listeners = {};
    this.style = {};
    this.classList = { add() {} };
    Object.assign(this, more);
  }
  addEventListener(name, listener) {
    this.listeners[name] = listener;
  }
  fire(name, more) {
    return this.listeners[name]({ preventDefault() {}, target: { closest: () => null }, pointerId: 1, button: 0, ...more });
  }
  remove() {}
  prepend() {}
  setPointerCapture() {}
  replaceChildren(...children) {
    this.children = children;
  }
}

const pictures = [];
class Picture extends Stub {
  set src(target) {
    this.target = target;
    pictures.push(target);
    if (this.onload) setImmediate(() => this.onload());
  }
}

const map = new Stub({
  dataset: dataset(page.match(/<div id="map"[^>]*>/)[0]),
  clientWidth: 600, clientHeight: 300, clientLeft: 0, clientTop: 0,
  getBoundingClientRect: () => ({ left: 0, top: 0 }),
  querySelector: () => new Stub(),
  querySelectorAll: () => [],
});
const boxes = [...page.matchAll(/<input type="checkbox"[^>]*>/g)].map(
  ([tag]) => new Stub({ value: text(tag.match(/ value="([^"]*)"/)[1]), checked: / checked/.test(tag), dataset: dataset(tag) }),
);
const fold = new Stub({ open: false });
const legend = new Stub({ closest: () => fold });
const info = new Stub({ hidden: true });
const fetched = [];
const context = vm.createContext({
  document: {
    getElementById: (id) => ({ map, legend, info })[id],
    querySelectorAll: (selector) => (selector === ".layers input" ? boxes : []),
    createElement: () => new Picture(),
  },
  Image: Picture,
  ResizeObserver: class {
    observe() {}
  },
  fetch: async (target) => (fetched.push(target), { text: async () => "an answer" }),
  setTimeout, clearTimeout, encodeURIComponent, console,
});

const rest = () => new Promise((done) => setTimeout(done, 500));
const bbox = (target) => new URLSearchParams(target.slice(2)).get("BBOX").split(",").map(Number);
function check(holds, what) {
  if (!holds) throw new Error(what);
}

(async () => {
  vm.runInContext(script, context);
  await rest();
  const asked = { first: pictures.at(-1) };
  const whole = bbox(asked.first);
  check(whole[0] < -180 && whole[2] > 180 && whole[1] <= -90 && whole[3] >= 90, `not the whole extent: ${whole}`);

  // Closer around a pixel, which stays where it is.
  map.fire("wheel", { clientX: 150, clientY: 75, deltaY: -100 });
  await rest();
  asked.closer = pictures.at(-1);
  const closer = bbox(asked.closer);
  const at = (box) => [box[0] + ((box[2] - box[0]) * 150) / 600, box[3] - ((box[3] - box[1]) * 75) / 300];
  const [before, after] = [at(whole), at(closer)];
  check(closer[2] - closer[0] < whole[2] - whole[0], "the wheel did not bring it closer");
  check(Math.hypot(before[0] - after[0], before[1] - after[1]) < 1e-6, `the place moved: ${before} to ${after}`);

  map.fire("pointerdown", { clientX: 300, clientY: 150 });
  map.fire("pointermove", { clientX: 360, clientY: 150 });
  map.fire("pointerup", { clientX: 360, clientY: 150 });
  await rest();
  asked.dragged = pictures.at(-1);
  const moved = (bbox(asked.dragged)[0] - closer[0]) / (closer[2] - closer[0]);
  check(Math.abs(moved + 0.1) < 1e-6, `a tenth of the width to the right moved it by ${moved}`);
  check(fetched.length === 0, "a drag is no click");

  // Two fingers that part bring it closer.
  map.fire("pointerdown", { clientX: 200, clientY: 150, pointerId: 1 });
  map.fire("pointerdown", { clientX: 400, clientY: 150, pointerId: 2 });
  map.fire("pointermove", { clientX: 500, clientY: 150, pointerId: 2 });
  map.fire("pointerup", { pointerId: 1 });
  map.fire("pointerup", { pointerId: 2 });
  await rest();
  const pinched = bbox(pictures.at(-1));
  check(Math.abs((pinched[2] - pinched[0]) / (closer[2] - closer[0]) - 2 / 3) < 1e-6, "two fingers did not scale it");

  map.fire("keydown", { key: "-" });
  map.fire("keydown", { key: "0" });
  await rest();
  check(pictures.at(-1) === asked.first, "0 does not show the whole extent");

  const countries = boxes.find((box) => box.value === "countries");
  countries.checked = false;
  countries.fire("change");
  await rest();
  asked.without = pictures.at(-1);
  countries.checked = true;
  countries.fire("change");
  fold.open = true;
  fold.fire("toggle");
  asked.legend = legend.children[0].target;
  await rest();

  // Germany, as the view of the whole world has it.
  const pixel = [((10 - whole[0]) / (whole[2] - whole[0])) * 600, ((whole[3] - 51) / (whole[3] - whole[1])) * 300];
  map.fire("pointerdown", { clientX: pixel[0], clientY: pixel[1] });
  await map.fire("pointerup", { clientX: pixel[0], clientY: pixel[1] });
  await rest();
  asked.info = fetched[0];
  check(info.textContent === "an answer" && !info.hidden, "the answer is not shown");
  console.log(JSON.stringify(asked));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
