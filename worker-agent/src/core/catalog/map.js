// The map of a project's page: one picture of its WMS for the whole view, moved and scaled at once and asked for anew
// when the hand rests. What to ask stands in the data attributes of #map.
"use strict";
(() => {
  const map = document.getElementById("map");
  if (!map || !map.dataset.extent) return;
  const { wms, crs } = map.dataset;
  const whole = JSON.parse(map.dataset.extent);
  const order = JSON.parse(map.dataset.order);
  const most = [Number(map.dataset.maxWidth) || 4096, Number(map.dataset.maxHeight) || 4096];
  const boxes = [...document.querySelectorAll(".layers input")];
  const busy = map.querySelector(".busy");
  const legend = document.getElementById("legend");
  const answer = document.getElementById("info");

  // The view: the middle in map units, and map units for each pixel.
  let x = 0, y = 0, unit = 1;
  // The picture that is shown, and the view it was drawn for.
  let shown = null;
  let timer = 0, asked = 0;

  const size = () => [Math.max(1, map.clientWidth), Math.max(1, map.clientHeight)];

  function showWhole() {
    const [width, height] = size();
    x = (whole[0] + whole[2]) / 2;
    y = (whole[1] + whole[3]) / 2;
    unit = Math.max((whole[2] - whole[0]) / width, (whole[3] - whole[1]) / height) * 1.04;
    if (!(unit > 0)) unit = Math.max(Math.abs(x), Math.abs(y), 1) * 1e-5;
    changed(0);
  }

  // The layers that are ticked, lowest first, as WMS wants them.
  function layers(only) {
    const ticked = new Set(boxes.filter((box) => box.checked && (!only || only(box))).map((box) => box.value));
    return order.filter((name) => ticked.has(name));
  }

  function url(request, names, more) {
    const values = { SERVICE: "WMS", VERSION: "1.1.1", REQUEST: request, ...more };
    const list = names.map(encodeURIComponent).join(",");
    const pairs = Object.entries(values).map(([key, value]) => key + "=" + encodeURIComponent(value));
    return `${wms}&${pairs.join("&")}&LAYERS=${list}`;
  }

  function view() {
    const [width, height] = size();
    const less = Math.min(1, most[0] / width, most[1] / height);
    const half = [(unit * width) / 2, (unit * height) / 2];
    return {
      SRS: crs,
      BBOX: [x - half[0], y - half[1], x + half[0], y + half[1]].join(","),
      WIDTH: Math.round(width * less),
      HEIGHT: Math.round(height * less),
      STYLES: "",
    };
  }

  // Moves the picture that is there to where it belongs in the view of now.
  function place() {
    if (!shown) return;
    const [width, height] = size();
    const scale = shown.unit / unit;
    const left = (shown.x - x) / unit + (width - shown.width * scale) / 2;
    const top = (y - shown.y) / unit + (height - shown.height * scale) / 2;
    shown.image.style.width = `${shown.width}px`;
    shown.image.style.height = `${shown.height}px`;
    shown.image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
  }

  function changed(pause) {
    place();
    clearTimeout(timer);
    timer = setTimeout(draw, pause);
  }

  function draw() {
    const names = layers();
    const number = ++asked;
    const [width, height] = size();
    const next = { image: new Image(), x, y, unit, width, height };
    const take = () => {
      if (number !== asked) return;
      busy.hidden = true;
      if (shown) shown.image.remove();
      shown = next;
      map.prepend(next.image);
      place();
    };
    if (names.length === 0) {
      if (shown) shown.image.remove();
      shown = null;
      busy.hidden = true;
      return;
    }
    busy.textContent = "drawing";
    busy.hidden = false;
    next.image.alt = "";
    next.image.onload = take;
    next.image.onerror = () => {
      if (number === asked) busy.textContent = "the map could not be drawn";
    };
    next.image.src = url("GetMap", names, { ...view(), FORMAT: "image/png" });
  }

  // Scales by `factor`, and keeps in its place what lies at the pixel.
  function zoom(factor, pixelX, pixelY, pause) {
    const [width, height] = size();
    const [right, up] = [pixelX - width / 2, height / 2 - pixelY];
    const next = Math.min(Math.max(unit * factor, Number.MIN_VALUE), 1e9);
    x += right * (unit - next);
    y += up * (unit - next);
    unit = next;
    changed(pause);
  }

  const middle = (factor) => zoom(factor, size()[0] / 2, size()[1] / 2, 150);
  const at = (event) => {
    const box = map.getBoundingClientRect();
    return [event.clientX - box.left - map.clientLeft, event.clientY - box.top - map.clientTop];
  };

  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    const step = Math.max(-1, Math.min(1, event.deltaY / 100));
    zoom(Math.pow(1.6, step), ...at(event), 200);
  }, { passive: false });

  // Fingers and the mouse: one drags, two scale.
  const fingers = new Map();
  let moved = false;
  map.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button") || event.button > 0) return;
    map.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    moved = fingers.size > 1;
  });
  map.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    const other = [...fingers].find(([id]) => id !== event.pointerId);
    if (!moved && Math.hypot(now[0] - before[0], now[1] - before[1]) < 4) return;
    moved = true;
    if (other) {
      const [far, near] = [now, before].map((point) => Math.hypot(point[0] - other[1][0], point[1] - other[1][1]));
      if (far > 0 && near > 0) zoom(near / far, ...other[1], 250);
    } else {
      x -= (now[0] - before[0]) * unit;
      y += (now[1] - before[1]) * unit;
      changed(250);
    }
    fingers.set(event.pointerId, now);
  });
  map.addEventListener("pointerup", (event) => {
    const mine = fingers.delete(event.pointerId);
    if (mine && !moved && fingers.size === 0) ask(...at(event));
  });
  map.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));

  map.addEventListener("keydown", (event) => {
    const step = 60 * unit;
    const keys = {
      "+": () => middle(1 / 1.6), "=": () => middle(1 / 1.6), "-": () => middle(1.6), "0": showWhole,
      ArrowLeft: () => { x -= step; changed(150); }, ArrowRight: () => { x += step; changed(150); },
      ArrowUp: () => { y += step; changed(150); }, ArrowDown: () => { y -= step; changed(150); },
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  const buttons = { in: () => middle(1 / 1.6), out: () => middle(1.6), whole: showWhole };
  for (const button of map.querySelectorAll("[data-do]")) {
    button.addEventListener("click", buttons[button.dataset.do]);
  }

  // What is at a pixel.
  async function ask(pixelX, pixelY) {
    const names = layers((box) => box.dataset.queryable === "true");
    answer.hidden = false;
    if (names.length === 0) {
      answer.textContent = "No layer that is shown can be asked.";
      return;
    }
    answer.textContent = "asking";
    const where = view();
    const [width, height] = size();
    const target = url("GetFeatureInfo", names, {
      ...where,
      X: Math.floor((pixelX * where.WIDTH) / width),
      Y: Math.floor((pixelY * where.HEIGHT) / height),
      FEATURE_COUNT: 10,
      INFO_FORMAT: "text/plain",
      QUERY_LAYERS: names.join(","),
    });
    try {
      const reply = await fetch(target);
      answer.textContent = (await reply.text()).slice(0, 20000) || "Nothing is there.";
    } catch (error) {
      answer.textContent = `The server did not answer: ${error.message}`;
    }
  }

  function showLegend() {
    const names = layers();
    const picture = document.createElement("img");
    picture.alt = "Legend";
    if (names.length > 0) picture.src = url("GetLegendGraphic", names, { FORMAT: "image/png" });
    legend.replaceChildren(...(names.length > 0 ? [picture] : []));
  }
  const fold = legend.closest("details");
  fold.addEventListener("toggle", () => fold.open && showLegend());
  for (const box of boxes) {
    box.addEventListener("change", () => {
      changed(150);
      if (fold.open) showLegend();
    });
  }
  // A group's own box ticks all that is in it.
  for (const group of document.querySelectorAll("[data-group]")) {
    group.addEventListener("click", () => {
      const inner = [...group.closest("li").querySelectorAll("input")];
      const tick = inner.some((box) => !box.checked);
      for (const box of inner) box.checked = tick;
      changed(150);
      if (fold.open) showLegend();
    });
  }

  map.classList.add("alive");
  new ResizeObserver(() => changed(150)).observe(map);
  showWhole();
})();
